"""`.npy` files: numbers only, never objects, and no memory for what a header merely claims."""

from __future__ import annotations

import tokenize
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metaformer.errors import DataError

LARGEST = 2**28
"""Default cap on the elements of an array: 268 million."""


def read_npy(path: Path, largest: int = LARGEST) -> npt.NDArray[Any]:
    """The array of a `.npy` file, in memory. Raises DataError, naming the file, for anything but numbers."""
    table = map_npy(path)
    if table.size > largest:
        found = f"{' x '.join(map(str, table.shape))} = {table.size} numbers"
        raise DataError(f"read {path}, at most {largest} numbers", found, "cut it, or raise the limit")
    return np.array(table)


def map_npy(path: Path) -> npt.NDArray[Any]:
    """The same without reading it: mapped, so that a header that lies about its size cannot make us allocate it."""
    try:
        with np.errstate(over="raise"):  # a shape whose product does not fit 64 bits
            table = np.lib.format.open_memmap(path, mode="r")
        if table.dtype.kind not in "biuf":
            raise ValueError(f"entries of type {table.dtype}, where numbers are needed")
    # All of these come out of numpy's reader for damaged files.
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, ArithmeticError, tokenize.TokenError) as error:
        raise DataError(
            f"read {path}", str(error)[:200] or type(error).__name__, "give a readable .npy file"
        ) from error
    return table
