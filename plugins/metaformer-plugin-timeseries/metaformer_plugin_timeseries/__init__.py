"""Time series as a modality: the hooks."""

from __future__ import annotations

from collections.abc import Iterable

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def register_tokenizers() -> Iterable[Component]:
    return [
        Component(
            "timeseries",
            "metaformer_plugin_timeseries.tokenizer:TimeSeriesTokenizer",
            "Time series of any length, as patches or steps.",
        )
    ]


@hookimpl
def register_datasets() -> Iterable[Component]:
    module = "metaformer_plugin_timeseries.datasets"
    forecast = "metaformer_plugin_timeseries.forecast"
    return [
        Component("ts_file", f"{module}:TsDataset", "A `.ts` file of the UEA and UCR archives."),
        Component("forecast", f"{forecast}:ForecastDataset", "Windows of a CSV file of steps."),
        Component(
            "pressure",
            f"{forecast}:PressureDataset",
            "Arterial blood pressure to be forecast, out of the aeon package.",
        ),
        Component("aeon", f"{module}:AeonDataset", "Archive sets that ship inside the aeon package."),
    ]
