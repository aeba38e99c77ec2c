"""Folders of data inside installed packages, found without importing the package, which may take seconds."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from metaformer.errors import DataError


def package_data(package: str, inside: str, what: str, install: str, holds: Sequence[str] = ()) -> Path:
    """The file or folder `inside` of an installed package. Raises DataError where it, or what it must hold, is absent.

    `what`: what is asked for, in words; `install`: the command that brings it."""
    found = importlib.util.find_spec(package)
    for place in (found.submodule_search_locations or ()) if found else ():
        path = Path(place) / inside
        if path.exists() and all((path / name).is_file() for name in holds):
            return path
    there = f"{inside} with {', '.join(holds)}" if holds else inside
    raise DataError(what, f"{package} is absent" if found is None else f"this {package} has no {there}", install)
