"""Every error a user can meet, each in three parts: what was asked, what was found, what to do.

The exit code of the command is a property of the error, so that scripts can tell a broken recipe from
broken data without reading text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class MetaformerError(Exception):
    """What was asked, what was found, what to do; `exit_code` is what the command returns."""

    exit_code = 1
    every_rank = False
    """Whether each rank that meets it says so: it is not the same fault on all."""

    def __init__(self, asked: str, found: str = "", do: str = "") -> None:
        self.asked, self.found, self.do = asked, found, do
        lines = [asked]
        if found:
            lines.append(f"  found: {found}")
        if do:
            lines.append(f"  do:    {do}")
        super().__init__("\n".join(lines))


class UsageError(MetaformerError):
    """The command line asks for something that makes no sense."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One fault of a recipe: where it stands, what is wrong, what to do about it."""

    path: str
    """Dotted path inside the recipe, such as `tasks.digits.objective.head`; empty for the whole file."""
    found: str
    do: str = ""
    line: int | None = None
    """1-based line of the recipe file; None for what came from `--set` or from nowhere in particular."""

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        path = f"{self.path}: " if self.path else ""
        return f"{where}{path}{self.found}" + (f"\n      do: {self.do}" if self.do else "")


class RecipeError(MetaformerError):
    """A recipe that cannot be run; carries every problem found, not only the first."""

    exit_code = 2

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        self.file, self.problems = file, list(problems)
        count = len(self.problems)
        super().__init__(f"{file}: {count} problem{'s' if count != 1 else ''}")
        self.args = ("\n".join([self.args[0], *(f"  {file}: {p}" for p in self.problems)]),)


class DataError(MetaformerError):
    """A sample or a data set that cannot be used as it is."""

    exit_code = 3


class PluginError(MetaformerError):
    """A plugin that is missing, broken, or clashes with another."""

    exit_code = 4


class DivergedError(MetaformerError):
    """The loss or a gradient is no longer finite."""

    exit_code = 5


class OutOfMemoryError(MetaformerError):
    """A device, or the machine, has no memory left for a step."""

    exit_code = 6
    every_rank = True


class NoSpaceError(MetaformerError):
    """The disk is full, also after every checkpoint that may go has gone."""

    exit_code = 8


class PeerError(MetaformerError):
    """Another rank failed or is gone; `exit_code` is that rank's own where it could still say so."""

    every_rank = True

    def __init__(self, asked: str, found: str = "", do: str = "", exit_code: int = 1) -> None:
        super().__init__(asked, found, do)
        self.exit_code = exit_code


class CheckpointError(MetaformerError):
    """A checkpoint or run directory that cannot be used."""

    exit_code = 7


class WeightsError(CheckpointError):
    """Pretrained weights that are absent, unreadable, or do not fit the model."""


class FreezeError(MetaformerError):
    """A frozen parameter or buffer changed: the run's claim would be false."""


class StoppedError(MetaformerError):
    """The run was asked to stop, saved what it had, and can be resumed (`EX_TEMPFAIL`)."""

    exit_code = 75
