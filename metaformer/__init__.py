"""metaformer: one plugin-based framework for any modality.

Importing this package is cheap: torch is imported when a name that needs it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metaformer.hookspecs import Component, hookimpl

if TYPE_CHECKING:
    from metaformer.predict import load as load

__version__ = "0.1.0"
__all__ = ["Component", "__version__", "hookimpl", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from metaformer.predict import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
