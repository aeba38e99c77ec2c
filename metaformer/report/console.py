"""What the terminal shows: a progress bar where there is one, plain lines for logs; rank zero only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from metaformer.plaintext import printable

LOG_WIDTH = 120
"""Columns of tables in logs, where no terminal says."""


class Console:
    """Prints a run. `quiet` for ranks other than zero."""

    def __init__(self, quiet: bool = False) -> None:
        self._out = RichConsole(highlight=False, soft_wrap=True, quiet=quiet)
        if not self._out.is_terminal:
            self._out.width = LOG_WIDTH
        self._bar: Progress | None = None
        self._task: Any = None

    def say(self, text: str) -> None:
        """Lines, as they are: no markup is read from them, and no terminal obeys them."""
        self._out.print(Text(printable(text)))

    def begin(self, name: str, start: int, steps: int) -> None:
        """Show the bar, where there is a terminal."""
        if self._out.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[numbers]}", markup=False),
                console=self._out,
                transient=True,
            )
            self._task = self._bar.add_task(printable(name, lines=False), total=steps, completed=start, numbers="")
            self._bar.start()

    def step(self, record: Mapping[str, Any], steps: int, log: bool, left: float) -> None:
        """A finished step: moves the bar; prints a line where the log is due. `left`: seconds to go."""
        if self._bar is not None:
            self._bar.update(self._task, completed=record["step"], numbers=numbers(record))
        elif log:
            self.say(f"step {record['step']}/{steps} {numbers(record)} eta {duration(left)}")

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """The numbers of an evaluation."""
        self.say(f"eval at step {step}: " + "  ".join(f"{key} {value:.4f}" for key, value in metrics.items()))

    def end(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A small table."""
        table = Table(title=_text(title), title_justify="left")
        for i, column in enumerate(columns):
            table.add_column(_text(column), justify="left" if i == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*[_text(cell) for cell in row])
        self._out.print(table)


def _text(cell: str) -> Text:
    return Text(printable(cell, lines=False))


def numbers(record: Mapping[str, Any]) -> str:
    """A step's numbers in one line."""
    norm = record["grad_norm"]
    return (
        f"loss {record['loss']:.4f} lr {record['lr']:.2e} "
        f"gnorm {'-' if norm is None else format(norm, '.2f')} samples/s {record['samples_per_s']:.0f}"
    )


def duration(seconds: float) -> str:
    """H:MM:SS."""
    whole = round(max(seconds, 0))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
