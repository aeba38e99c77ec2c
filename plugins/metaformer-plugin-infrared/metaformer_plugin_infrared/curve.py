"""A spectrum as it was measured: units of its axis, absorbance, and other places on the axis.

Source: Beer and Lambert: absorbance is -log10 of transmittance; a wavenumber in 1/cm is 1e7 / nm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float64

from metaformer.errors import DataError

Unit = Literal["as_is", "1/cm", "nm", "um"]
LEAST = 1e-6
"""Transmittance below is noise of the detector, and would be an absorbance without bound."""


@dataclass(frozen=True)
class Curve:
    """Values over an axis; NaN is missing."""

    axis: Float64[np.ndarray, " L"] | None
    """Increasing, decreasing or in no order; None where the values are on the common axis already."""
    values: Float64[np.ndarray, " L"]
    x_unit: str = ""
    """`1/cm`, `nm`, `um`, or nothing where it is not known."""
    y_unit: str = ""
    """In lower case, as the file has it."""

    def in_unit(self, unit: Unit, name: str) -> Curve:
        """Over an axis in another unit. DataError where the file does not say its own."""
        if unit == "as_is" or self.axis is None or self.x_unit == unit:
            return self
        if not self.x_unit:
            raise DataError(f"{name} in {unit}", "it does not say the unit of its axis", "set `axis_unit: as_is`")
        return replace(self, axis=_from_nanometres(_to_nanometres(self.axis, self.x_unit), unit), x_unit=unit)

    def absorbance(self, name: str) -> Curve:
        """Out of transmittance or its percentage; absorbance as it is."""
        unit = self.y_unit
        if "absorbance" in unit:
            return self
        if "transmittance" not in unit:
            found = f"its ordinate is {unit!r}" if unit else "it does not say what its ordinate is"
            raise DataError(f"{name} as absorbance", found, "set `absorbance: false`")
        share = self.values / (100 if "%" in unit or "percent" in unit else 1)
        return replace(self, values=-np.log10(share.clip(min=LEAST)), y_unit="absorbance")

    def at(self, axis: Float64[np.ndarray, " P"], name: str) -> Float64[np.ndarray, " P"]:
        """Linear between neighbours, NaN outside and beside what is missing. An axis much finer than this one is
        not averaged first."""
        if self.axis is None:
            if len(self.values) != len(axis):
                found = f"{len(self.values)} values without an axis"
                raise DataError(f"{name} of {len(axis)} points", found, "set `points`, or give it an axis")
            return self.values
        if not np.isfinite(self.axis).all():
            raise DataError(f"{name} over an axis of numbers", "some are missing or infinite", "repair it")
        order = np.argsort(self.axis, kind="stable")
        found_axis = self.axis[order]
        if (np.diff(found_axis) == 0).any():
            raise DataError(f"{name} with one value at every place", "a place of the axis is there twice", "repair it")
        return np.interp(axis, found_axis, self.values[order], left=np.nan, right=np.nan)


def _to_nanometres(axis: Float64[np.ndarray, " L"], unit: str) -> Float64[np.ndarray, " L"]:
    if unit == "1/cm":
        with np.errstate(divide="ignore"):
            return 1e7 / axis
    return axis * 1e3 if unit == "um" else axis


def _from_nanometres(axis: Float64[np.ndarray, " L"], unit: str) -> Float64[np.ndarray, " L"]:
    return axis / 1e3 if unit == "um" else _to_nanometres(axis, unit)
