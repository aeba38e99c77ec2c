"""Its weights are drawn anew when it is switched between training and evaluation, loaded and frozen or not."""

from metaformer_plugin_defective.sound import Averaging


class Redrawn(Averaging):
    def train(self, mode=True):
        self.blocks[0].reset_parameters()
        return super().train(mode)
