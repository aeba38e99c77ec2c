"""Every pass seeds the generators of everybody else."""

import numpy as np
import torch

from metaformer_plugin_defective.sound import Averaging


class HiddenSeed(Averaging):
    def forward(self, tokens):
        np.random.seed(0)
        torch.manual_seed(0)
        return super().forward(tokens)
