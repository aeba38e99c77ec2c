"""Rows of tables as a modality: the hooks."""

from __future__ import annotations

from collections.abc import Iterable

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def register_tokenizers() -> Iterable[Component]:
    return [
        Component(
            "tabular",
            "metaformer_plugin_tabular.tokenizer:TabularTokenizer",
            "Table rows, one token per column.",
        )
    ]


@hookimpl
def register_datasets() -> Iterable[Component]:
    module = "metaformer_plugin_tabular.datasets"
    return [
        Component("breast_cancer", f"{module}:BreastCancer", "569 tumours, 30 numbers each, malignant or benign."),
        Component("wine", f"{module}:Wine", "178 wines, 13 numbers each, three cultivars."),
        Component("adult", "metaformer_plugin_tabular.adult:Adult", "UCI Adult: census rows, income above 50K or not."),
        Component("diabetes", f"{module}:Diabetes", "442 patients, 10 columns each, disease progression."),
    ]
