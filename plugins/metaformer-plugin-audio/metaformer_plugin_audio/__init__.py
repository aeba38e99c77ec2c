"""Audio as a modality: the hooks."""

from __future__ import annotations

from collections.abc import Iterable

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def register_tokenizers() -> Iterable[Component]:
    return [
        Component(
            "audio",
            "metaformer_plugin_audio.tokenizer:AudioTokenizer",
            "Sound of any length, as patches of a log-mel spectrogram.",
        )
    ]


@hookimpl
def register_datasets() -> Iterable[Component]:
    published = "metaformer_plugin_audio.datasets"
    return [
        Component("speech_commands", f"{published}:SpeechCommands", "Speech Commands: one spoken word per clip."),
        Component("esc50", f"{published}:Esc50", "ESC-50: environmental sounds in five folds."),
        Component(
            "game_sounds",
            "metaformer_plugin_audio.game_sounds:GameSounds",
            "Moments of the sounds that ship inside pygame-ce.",
        ),
    ]
