"""Components with one defect each, and a sound one of each kind beside them."""

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


def _component(name, cls):
    return Component(name, f"metaformer_plugin_defective.{name}:{cls}", "Defective on purpose.")


@hookimpl
def register_tokenizers():
    return [
        Component("sound", "metaformer_plugin_defective.sound:Vectors", "Sound."),
        _component("wrong_width", "WrongWidth"),
        _component("inverted_mask", "InvertedMask"),
        _component("padding_leak", "PaddingLeak"),
        _component("unpicklable", "Unpicklable"),
        _component("small_example", "SmallExample"),
        _component("takes_anything", "TakesAnything"),
    ]


@hookimpl
def register_encoders():
    return [
        Component("sound", "metaformer_plugin_defective.sound:Averaging", "Sound."),
        _component("hidden_seed", "HiddenSeed"),
        _component("redrawn", "Redrawn"),
    ]


@hookimpl
def register_bridges():
    return [
        Component("sound", "metaformer_plugin_defective.sound:Queries", "Sound."),
        _component("mixed_batch", "MixedBatch"),
        _component("cut_gradient", "CutGradient"),
    ]


@hookimpl
def register_heads():
    return [
        Component("sound", "metaformer_plugin_defective.sound:Count", "Sound."),
        _component("nan_on_empty", "NanOnEmpty"),
        _component("phones_home", "PhonesHome"),
    ]
