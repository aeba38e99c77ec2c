"""Did-you-mean: the nearest known word to one that is not known, for every message that names something."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word a typist most likely meant, or None."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def suggest(word: str, known: Iterable[str], none: str = "there is nothing to choose from") -> str:
    """A half sentence for the `do` of an error: the nearest name, and otherwise the choice there is."""
    names = sorted(known)
    close = nearest(word, names)
    if close:
        return f"did you mean '{close}'?"
    if not names:
        return none
    shown = ", ".join(names[:20]) + (f", and {len(names) - 20} more" if len(names) > 20 else "")
    return f"known: {shown}"
