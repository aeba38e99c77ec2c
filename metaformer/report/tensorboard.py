"""TensorBoard events of a run, as an observer like any plugin's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from metaformer.errors import MetaformerError
from metaformer.hookspecs import hookimpl


@contextmanager
def _writing(run: Any) -> Iterator[None]:
    """Its own thread writes; what that met comes with a later call."""
    try:
        yield
    except OSError as error:
        do = "is it there and may it be written to? Otherwise choose another: --set output=FOLDER"
        raise MetaformerError(f"write the run directory {run.path}", f"tensorboard: {error}", do) from error


class TensorBoard:
    """Writes every number of every record under `RUN/tensorboard`."""

    def __init__(self) -> None:
        self._writer: Any = None
        self._step = 0
        self._resumed: int | None = None

    @hookimpl
    def run_started(self, run: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Points after the checkpoint that a run goes on from are about to be drawn again.
        purge = None if self._resumed is None else self._resumed + 1
        self._writer, self._resumed = SummaryWriter(run.path / "tensorboard", purge_step=purge, flush_secs=10), None

    @hookimpl
    def save_state(self, run: Any) -> dict[str, int]:
        return {"step": self._step}

    @hookimpl
    def load_state(self, run: Any, state: Mapping[str, Any]) -> None:
        self._step = self._resumed = state["step"]

    @hookimpl
    def step_finished(self, run: Any, record: Mapping[str, Any]) -> None:
        with _writing(run):
            self._write("train", record)

    @hookimpl
    def evaluated(self, run: Any, record: Mapping[str, Any]) -> None:
        with _writing(run):
            self._write("valid", record["metrics"] | {"step": record["step"]})

    @hookimpl
    def run_finished(self, run: Any, error: BaseException | None) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with _writing(run):
                writer.close()

    def _write(self, prefix: str, record: Mapping[str, Any]) -> None:
        self._step = record["step"]
        if self._writer is None:
            return
        for key, value in record.items():
            if isinstance(value, (int, float)) and key != "step":
                self._writer.add_scalar(f"{prefix}/{key}", value, record["step"])
