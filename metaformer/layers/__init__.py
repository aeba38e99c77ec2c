"""The sub-layers every encoder, bridge and decoder is an arrangement of."""

from metaformer.layers.attention import Attention, attend
from metaformer.layers.block import Block, DropPath
from metaformer.layers.mlp import MLP

__all__ = ["MLP", "Attention", "Block", "DropPath", "attend"]
