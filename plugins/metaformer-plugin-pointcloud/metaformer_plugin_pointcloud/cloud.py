"""One cloud as it was read: points and what is known of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from metaformer.errors import DataError

Stored = Literal["color", "normal", "intensity"]
WIDTHS: Mapping[str, int] = {"color": 3, "normal": 3, "intensity": 1, "skip": 1}
"""Columns of a channel."""


@dataclass
class PointSet:
    """N points in the file's unit, and channels of them [N, WIDTHS]: colours and intensities from 0 to 1."""

    points: Float64[np.ndarray, "N 3"]
    channels: dict[str, Float64[np.ndarray, "N W"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.points)

    def pick(self, index: Any) -> PointSet:
        """Some of the points."""
        return PointSet(self.points[index], {name: values[index] for name, values in self.channels.items()})


def from_columns(table: np.ndarray, columns: tuple[str, ...], top: float, subject: str) -> PointSet:
    """A table [N, 3 + ...], whose columns after x, y, z are `columns`; floating-point colours reach up to `top`."""
    width = 3 + sum(WIDTHS[name] for name in columns)
    if table.ndim != 2 or table.shape[1] != width:
        wanted = ", ".join(["x, y, z", *columns])
        raise DataError(
            f"{subject} with columns {wanted} ({width})",
            f"shape {list(table.shape)}",
            "say in `columns` what comes after x, y, z: color and normal (three each), intensity, skip",
        )
    found = PointSet(table[:, :3].astype(np.float64))
    at = 3
    for name in columns:
        part = table[:, at : at + WIDTHS[name]]
        at += WIDTHS[name]
        if name != "skip":
            found.channels[name] = part.astype(np.float64) if name == "normal" else shade(part, top, subject)
    return found


def shade(values: np.ndarray, top: float, subject: str) -> Float64[np.ndarray, "N W"]:
    """Colours or intensities as numbers from 0 to 1: whole numbers by their type, others by `top`."""
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return values.astype(np.float64) / np.iinfo(values.dtype).max
    out = values.astype(np.float64) / top
    beyond = out[~((out >= 0) & (out <= 1))]
    if beyond.size:
        raise DataError(
            f"{subject} with colours from 0 to {top:g}",
            f"{beyond[0] * top:g}",
            "set `color_max` to the largest there can be, such as 255",
        )
    return out
