"""Tokens of width 16, whatever the encoder's is."""

from metaformer_plugin_defective.sound import Vectors


class WrongWidth(Vectors):
    def __init__(self, dim: int):
        super().__init__(16)
