"""The table of a study: every variant's held-out numbers over its seeds, for the terminal, as Markdown and as data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any, Literal


@dataclass(frozen=True)
class Outcome:
    """What came of one run."""

    seed: int
    state: Literal["finished", "diverged", "out of memory"]
    metrics: Mapping[str, float]
    seconds: float | None
    reason: str = ""
    """Why it is not finished."""


@dataclass(frozen=True)
class Row:
    """A variant and its runs so far."""

    name: str
    about: str
    trained: int
    """Number of trained parameters."""
    outcomes: tuple[Outcome, ...]

    @property
    def finished(self) -> list[Outcome]:
        """The runs that count."""
        return [outcome for outcome in self.outcomes if outcome.state == "finished"]


@dataclass(frozen=True)
class Table:
    """Everything that a study says."""

    name: str
    command: str
    date: str
    seeds: tuple[int, ...]
    versions: Mapping[str, str]
    """Of what the numbers depend on: `torch`, `metaformer`."""
    hardware: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def metrics(self) -> list[str]:
        """`task/metric`, in the order in which runs report them."""
        return list(dict.fromkeys(key for row in self.rows for outcome in row.finished for key in outcome.metrics))

    @property
    def title(self) -> str:
        """What the numbers are."""
        if len(self.seeds) == 1:
            return f"{self.name}: held-out results after the last step, seed {self.seeds[0]}"
        seeds = ", ".join(map(str, self.seeds))
        return f"{self.name}: held-out results after the last step, mean ± standard deviation over seeds {seeds}"

    def cells(self) -> list[list[str]]:
        """A line per variant: its name, a cell per metric, trained parameters, mean seconds."""
        return [
            [row.name, *(_cell(row, key) for key in self.metrics), f"{row.trained:,}", _seconds(row)]
            for row in self.rows
        ]

    def remarks(self) -> list[str]:
        """What the numbers do not say by themselves."""
        made = sum(len(row.outcomes) for row in self.rows)
        left = len(self.seeds) * len(self.rows) - made
        unmade = [f"{left} of {made + left} runs are still to be made"] if left else []
        return [*unmade, *_failures(self.rows), *self.notes]

    def record(self) -> dict[str, Any]:
        """For `study.json`."""
        rows = [
            {
                "variant": row.name,
                "about": row.about,
                "trained": row.trained,
                "seconds": _mean(outcome.seconds for outcome in row.finished),
                "metrics": {key: _spread(row, key) for key in self.metrics},
                "runs": [asdict(outcome) for outcome in row.outcomes],
            }
            for row in self.rows
        ]
        head = {key: getattr(self, key) for key in ("name", "command", "date", "hardware")}
        return {
            **head,
            "seeds": list(self.seeds),
            "versions": dict(self.versions),
            "remarks": self.remarks(),
            "variants": rows,
        }

    def markdown(self) -> str:
        """A page that stands for itself."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        header = ["variant", "what it is", *self.metrics, "trained parameters", "seconds"]
        lines = [
            f"# Study of {_escaped(self.name)}",
            "",
            f"Made by `{self.command}`, {self.date}; {versions}; {self.hardware}.",
            "",
            f"{_escaped(self.title)}.",
            "",
            _line(header),
            _line(["---", "---", *("---:" for _ in header[2:])]),
            *(_line([cells[0], row.about, *cells[1:]]) for row, cells in zip(self.rows, self.cells(), strict=True)),
            "",
            *(f"* {_escaped(remark)}." for remark in self.remarks()),
        ]
        return "\n".join(lines) + "\n"


def _cell(row: Row, metric: str) -> str:
    spread = _spread(row, metric)
    if spread["mean"] is None:
        return row.outcomes[0].state if row.outcomes and not row.finished else "-"
    deviation = "" if spread["deviation"] is None else f" ± {spread['deviation']:.4f}"
    return f"{spread['mean']:.4f}{deviation}"


def _spread(row: Row, metric: str) -> dict[str, float | None]:
    """Mean and sample standard deviation; None where there are too few numbers for it."""
    values = [outcome.metrics[metric] for outcome in row.finished if metric in outcome.metrics]
    return {"mean": _mean(values), "deviation": stdev(values) if len(values) > 1 else None}


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if numbers else None


def _seconds(row: Row) -> str:
    seconds = _mean(outcome.seconds for outcome in row.finished)
    return "-" if seconds is None else f"{seconds:.1f}"


def _failures(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        failed = [outcome for outcome in row.outcomes if outcome.state != "finished"]
        if failed:
            why = "; ".join(f"seed {outcome.seed} {outcome.state}: {outcome.reason}" for outcome in failed)
            counted = "the numbers are those of the others" if row.finished else "there are no numbers"
            yield f"{row.name}: {len(failed)} of {len(row.outcomes)} runs failed, {counted} ({why})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_escaped(cell) for cell in cells)} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
