"""An example of one token, where samples have up to eight."""

from metaformer_plugin_defective.sound import Numbers, Vectors


class Small(Numbers):
    def example(self):
        return self.blank()


class SmallExample(Vectors):
    def __init__(self, dim: int):
        super().__init__(dim)
        self.preprocess = Small()
