"""Each component's case is that of the sound one of its kind."""

from metaformer.testing import bridge_checks, encoder_checks, head_checks, tokenizer_checks
from metaformer_plugin_defective import register_bridges, register_encoders, register_heads, register_tokenizers

SAMPLES = [[0.5, -1.0, 2.0], [1.0], [0.3, 0.1, -0.4, 0.9, 1.5]]
BAD = ["smoke", None, [], [0.0] * 9]


def checks():
    for component in register_tokenizers():
        yield from tokenizer_checks((component.name, {}), SAMPLES, bad=BAD)
    for component in register_encoders():
        yield from encoder_checks((component.name, {}))
    for component in register_bridges():
        yield from bridge_checks((component.name, {}), {"left": 16, "right": 8})
    for component in register_heads():
        yield from head_checks((component.name, {}))
