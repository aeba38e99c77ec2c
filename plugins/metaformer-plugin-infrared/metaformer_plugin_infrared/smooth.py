"""What chemists do to a spectrum before a model sees it: standard normal variate, and smoothed derivatives.

Source: Barnes et al. 1989 (Applied Spectroscopy 43, 772); Savitzky and Golay 1964 (Analytical Chemistry 36, 1627), with
the ends fitted as scipy's `savgol_filter` does under `mode="interp"`.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64


def normal_variate(values: Float64[np.ndarray, " P"]) -> Float64[np.ndarray, " P"]:
    """Mean 0 and deviation 1 over what is there, which takes away offset and gain of scattered light."""
    mean, std = np.nanmean(values), np.nanstd(values)
    # A flat spectrum's deviation is rounding noise, which must not be divided by.
    return (values - mean) / (std if std > 1e-12 * abs(mean) else 1.0)


def derivative(values: Float64[np.ndarray, " P"], order: int, window: int, degree: int) -> Float64[np.ndarray, " P"]:
    """The derivative of this order (0 smooths only), per step, of polynomials fitted to `window` neighbours.

    `window` is odd, above `degree` and at most P. NaN where a neighbour is missing."""
    half = window // 2
    powers = np.vander(np.arange(-half, half + 1), degree + 1, increasing=True).astype(np.float64)
    fit = np.linalg.pinv(powers)  # [degree+1, window]: neighbours to coefficients
    out = np.full(len(values), np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(values, window)
    out[half : len(values) - half] = windows @ fit[order] * math.factorial(order)
    for start, places in ((0, range(half)), (len(values) - window, range(window - half, window))):
        coefficients = fit @ values[start : start + window]
        for place in places:
            out[start + place] = _at(coefficients, order, place - half)
    return out


def _at(coefficients: Float64[np.ndarray, " K"], order: int, place: int) -> float:
    """The derivative of a polynomial at `place`."""
    return float(np.polynomial.polynomial.polyval(place, np.polynomial.polynomial.polyder(coefficients, order)))
