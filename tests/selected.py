"""Which cases of a file the tests of this session are about: a fixture that runs many of them runs no others."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pytest


def selected(request: pytest.FixtureRequest, parameter: str) -> set[str]:
    """The values of a parameter among the chosen tests of the file that asks: those that -m, -k or a name have left."""
    calls = [getattr(item, "callspec", None) for item in request.session.items if item.path == request.path]
    return {call.params[parameter] for call in calls if call is not None and parameter in call.params}


def thorough(cases: Iterable[str], usual: Collection[str]) -> list[object]:
    """Parameters: all cases, those that are not `usual` for `make thorough` alone."""
    return [case if case in usual else pytest.param(case, marks=pytest.mark.thorough) for case in cases]
