"""False is real: the convention of other libraries."""

from metaformer_plugin_defective.sound import Vectors


class InvertedMask(Vectors):
    def forward(self, raw):
        tokens = super().forward(raw)
        return tokens._replace(mask=~tokens.mask)
