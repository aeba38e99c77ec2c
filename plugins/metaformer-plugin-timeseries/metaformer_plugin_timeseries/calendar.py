"""A series with time features beside its values: columns that are known in advance and are not normalised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from metaformer.arrays.series import SeriesPreprocess
from metaformer.base import Preprocess
from metaformer.errors import DataError
from metaformer.types import Raw


class CalendarPreprocess(Preprocess):
    """Array [L, C + K] → what `SeriesPreprocess` makes of the first C columns, and {calendar: [L, K]} of the others."""

    def __init__(self, series: SeriesPreprocess, features: int) -> None:
        self.series, self.features = series, features

    def __call__(self, value: Any, train: bool) -> Raw:
        values, calendar = self.split(value)
        raw = self.series(values, train)
        kept = torch.from_numpy(calendar[: self.series.max_length]).float()
        return {**raw, "calendar": kept.nan_to_num(nan=0.0)}

    def split(self, value: Any) -> tuple[np.ndarray, np.ndarray]:
        """Values [L, C] and time features [L, K] of one sample. Raises DataError."""
        width = self.series.channels + self.features
        try:
            table = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            found = f"{type(value).__name__}: {str(error)[:80]}"
            raise DataError(f"an array [length, {width}]", found, "give values, then time features") from error
        if table.ndim != 2 or table.shape[1] != width or not len(table):
            do = f"give {self.series.channels} channels, then {self.features} time features"
            raise DataError(f"an array [length, {width}]", f"shape {list(table.shape)}", do)
        features = table[:, self.series.channels :]
        if (np.abs(features) > 1e6).any():  # NaN passes, and is 0
            raise DataError("time features", f"{np.nanmax(np.abs(features)):g}", "scale them to about a unit")
        return table[:, : self.series.channels], features

    def blank(self) -> Raw:
        return self._with_zeros(self.series.blank())

    def example(self) -> Raw:
        return self._with_zeros(self.series.example())

    def _with_zeros(self, raw: Raw) -> Raw:
        return {**raw, "calendar": torch.zeros(len(raw["mask"]), self.features)}

    def collate(self, samples: Sequence[Raw]) -> Raw:
        return self.series.collate(samples)
