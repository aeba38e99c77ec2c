"""Text as a modality: the hooks."""

from __future__ import annotations

from collections.abc import Iterable

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def register_tokenizers() -> Iterable[Component]:
    return [
        Component(
            "text",
            "metaformer_plugin_text.tokenizer:TextTokenizer",
            "Text as bytes or sub-words of a given vocabulary.",
        )
    ]


@hookimpl
def register_datasets() -> Iterable[Component]:
    return [
        Component(
            "python_topics",
            "metaformer_plugin_text.topics:PythonTopics",
            "Passages of Python's own help texts, by topic.",
        )
    ]
