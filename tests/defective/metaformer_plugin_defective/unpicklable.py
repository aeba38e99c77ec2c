"""A preprocess that holds a function without a name."""

from metaformer_plugin_defective.sound import Numbers, Vectors


class Scaled(Numbers):
    def __init__(self):
        self.scale = lambda number: 2 * number

    def __call__(self, value, train):
        raw = super().__call__(value, train)
        return {**raw, "values": self.scale(raw["values"])}


class Unpicklable(Vectors):
    def __init__(self, dim: int):
        super().__init__(dim)
        self.preprocess = Scaled()
