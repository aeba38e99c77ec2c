"""Paired data: the hooks."""

from __future__ import annotations

from collections.abc import Iterable

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def register_datasets() -> Iterable[Component]:
    module = "metaformer_plugin_pairs"
    return [
        Component("karpathy", f"{module}.captions:Karpathy", "COCO and Flickr30k captions in Karpathy's splits."),
        Component("vqa_v2", f"{module}.questions:VQAv2", "Questions about COCO's pictures, and ten answers each."),
        Component("nlvr2", f"{module}.sentences:NLVR2", "Is a sentence true of two pictures?"),
        Component("snli_ve", f"{module}.sentences:SNLIVE", "Does a Flickr30k picture entail a sentence?"),
        Component("digit_questions", f"{module}.digits:DigitQuestions", "Questions about real handwritten digits."),
        Component("digit_pairs", f"{module}.digits:DigitPairs", "Is a sentence true of two handwritten digits?"),
        Component("digit_entailment", f"{module}.digits:DigitEntailment", "Does a digit entail a sentence?"),
    ]
