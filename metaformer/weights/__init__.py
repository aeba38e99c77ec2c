"""Pretrained weights: where they come from, how their names map onto ours, and a receipt of what was loaded.

Importing this package, or its module `uri`, imports no torch: checking a recipe's shape stays instant.
"""
