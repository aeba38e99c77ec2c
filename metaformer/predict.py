"""Using a finished run: `metaformer.load(RUN)`, `metaformer predict`, `metaformer embed`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from metaformer.base import Dataset, Head, Objective
from metaformer.build import needs, open_data
from metaformer.data.inputs import read_inputs
from metaformer.data.loader import Item, Reader
from metaformer.data.order import Address
from metaformer.durable import write_atomic
from metaformer.errors import DataError, UsageError
from metaformer.evaluate import restore
from metaformer.heads.pool import pool
from metaformer.report.console import Console
from metaformer.run import Run, open_run
from metaformer.types import Answer, Batch, Prediction, Sample


def load(run: str | Path, checkpoint: str = "best") -> LoadedRun:
    """A trained run, ready to predict: `metaformer.load("runs/digits_frozen").predict(image="seven.png")`.

    `run`: a run directory, or the folder of a recipe's runs (the newest is taken). `checkpoint`: `best` or `latest`.
    """
    return LoadedRun(open_run(Path(run), partial=True), checkpoint)


class LoadedRun:
    """A run's model with a checkpoint's weights, in eval mode."""

    def __init__(self, run: Run, checkpoint: str = "best") -> None:
        self.run, self.model, self.folder = restore(run, checkpoint)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device)
        labels: dict[str, dict[str, list[str]]] = run.read_json("labels.json") or {}
        self._forms = {
            head: (target, form.kind, labels.get(task, {}).get(target))
            for task in self.run.recipe.tasks
            for target, form in needs(self.model, task)[1].items()
            if form.kind != "identity"
            for head in self._heads_of(task)
        }
        self._objectives = [(task, o) for task in self.run.recipe.tasks for o in self._objectives_of(task)]
        for task, objective in self._objectives:
            objective.class_names = labels.get(task, {})

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams the model reads."""
        return tuple(self.model.streams)

    def predict(self, **streams: Any) -> dict[str, Any]:
        """One sample, each stream by name (a file name, an array, a text, a row), to what every head whose streams
        are there says: a class with its probability and those of all, numbers, or an embedding; and what objectives
        say by themselves (`zero_shot`, `ranking`). Raises DataError."""
        return next(iter(self.predict_many([streams])))

    def predict_many(
        self, samples: Sequence[Sample], batch: int = 32, root: Path | None = None
    ) -> Iterator[dict[str, Any]]:
        """Samples as dictionaries, to predictions in order; an unreadable one raises DataError."""
        for batch_ in self._batches(samples, batch, root):
            with torch.inference_mode():
                heads = {name: p for name, p in self.model(batch_).items() if name in self._forms or self._embeds(name)}
                answers = self._answers(batch_)
            for row in range(len(batch_)):
                said = {name: self._say(name, p, row) for name, p in heads.items() if bool(p.present[row])}
                for name, answer in answers.items():
                    if bool(answer.present[row]):
                        said[name] = _class(answer.logits[row].float().cpu().softmax(dim=-1), answer.names)
                yield said

    def _answers(self, batch: Batch) -> dict[str, Answer]:
        """What objectives say by themselves, by the name of what they judge; the task's before it where that is not
        enough to tell them apart."""
        found = [(t, name, a) for t, o in self._objectives if (a := o.answer(self.model, batch)) for name in o.judged]
        names = [name for _, name, _ in found]
        return {name if names.count(name) == 1 else f"{task}/{name}": answer for task, name, answer in found}

    def embed(self, **streams: Any) -> dict[str, torch.Tensor]:
        """One sample to a vector [D] per encoded stream: its class token if it has one, else its mean token."""
        return next(iter(self.embed_many([streams])))

    def embed_many(
        self, samples: Sequence[Sample], batch: int = 32, root: Path | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Samples as dictionaries, to one vector per encoded stream, in order."""
        for batch_ in self._batches(samples, batch, root):
            names = [n for n in self.model.routes if self.model.sources(n) <= batch_.streams.keys()]
            with torch.inference_mode():
                tokens = {name: self.model.stream(batch_, name) for name in names}
                vectors = {name: pool(t, "auto").float().cpu() for name, t in tokens.items()}
            for row in range(len(batch_)):
                yield {name: v[row] for name, v in vectors.items() if bool(tokens[name].present[row])}

    def _batches(self, samples: Sequence[Sample], size: int, root: Path | None) -> Iterator[Batch]:
        for start in range(0, len(samples), size):
            chunk = samples[start : start + size]
            given = {stream for stream in self.streams if any(s.get(stream) is not None for s in chunk)}
            if not given:
                raise DataError(
                    f"a sample with any of the streams {', '.join(self.streams)}",
                    f"{', '.join(chunk[0]) or 'nothing'}",
                    "name the stream: predict(image=...), or --input image=FILE",
                )
            # Streams that are read together with a given one are missing values; others are not asked about.
            readers = [*self.model.heads, *self.model.routes]
            read = set().union(*(both for name in readers if (both := self.model.sources(name)) & given))
            preprocess = {s: self.model.tokenizer(s).preprocess for s in self.streams if s in read}
            reader = Reader("predict", _Samples(chunk, root), preprocess, {}, {}, train=False)
            items = [reader.read(Address("predict", 0, i)) for i in range(len(chunk))]
            _raise_first(items)
            yield reader.collate(items).to(self.device)

    def _objectives_of(self, task: str) -> list[Objective]:
        return list(cast(Sequence[Objective], self.model.objectives[task]))

    def _heads_of(self, task: str) -> list[str]:
        return [name for o in self._objectives_of(task) for name in o.uses if name in self.model.heads]

    def _embeds(self, name: str) -> bool:
        return cast(Head, self.model.heads[name]).predicts == "embedding"

    def _say(self, name: str, prediction: Prediction, row: int) -> Any:
        value = prediction.value[row].float().cpu()
        if self._embeds(name) or cast(Head, self.model.heads[name]).predicts == "values":
            return value.tolist()
        _, kind, classes = self._forms[name]
        if kind in ("multilabel", "scores"):
            return _labels(value.sigmoid(), classes)
        if kind == "classes":
            return [_class(p, classes) for p in value.softmax(dim=-1)]
        return _class(value.softmax(dim=-1), classes)


class _Samples(Dataset):
    """Samples in memory."""

    def __init__(self, samples: Sequence[Sample], root: Path | None) -> None:
        self.samples, self.root = samples, root

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def sample_id(self, index: int) -> str:
        return str(self.samples[index].get("__id__", index))


def _raise_first(items: Sequence[Item]) -> None:
    for item in items:
        if item.bad is not None:
            raise DataError(item.bad.error)


def _class(probabilities: torch.Tensor, classes: Sequence[str] | None) -> dict[str, Any]:
    best = int(probabilities.argmax())
    names = _names(classes, len(probabilities))
    return {
        "class": names[best],
        "index": best,
        "probability": float(probabilities[best]),
        "probabilities": dict(zip(names, probabilities.tolist(), strict=True)),
    }


def _labels(probabilities: torch.Tensor, classes: Sequence[str] | None) -> dict[str, Any]:
    names = _names(classes, len(probabilities))
    pairs = dict(zip(names, probabilities.tolist(), strict=True))
    return {"classes": [name for name, p in pairs.items() if p >= 0.5], "probabilities": pairs}


def _names(classes: Sequence[str] | None, size: int) -> list[str]:
    """Class names, numbers standing in for those the data set did not name."""
    known = list(classes or [])
    return known + [str(i) for i in range(len(known), size)]


def predict_command(run: Path, inputs: list[str], output: Path | None, checkpoint: str = "best") -> None:
    """`metaformer predict RUN --input X...`: a JSON line per sample, printed or written."""
    loaded = load(run, checkpoint)
    samples, root = command_inputs(loaded, inputs)
    skip = loaded.run.recipe.loader.bad_samples == "skip"
    lines: list[str] = []
    bad = 0
    for sample in samples:
        name = str(sample.get("__id__", len(lines)))
        try:
            lines.append(json.dumps({"id": name, **next(iter(loaded.predict_many([sample], root=root)))}))
        except DataError as error:
            if not skip:
                raise
            bad += 1
            lines.append(json.dumps({"id": name, "error": str(error)}))
    if output is None:
        print("\n".join(lines))
        return
    write_atomic(output, "".join(line + "\n" for line in lines))
    Console().say(f"{len(lines) - bad} predictions in {output}" + (f"; {bad} samples could not be read" if bad else ""))


def embed_command(run: Path, data: list[str], output: Path, checkpoint: str = "best") -> None:
    """`metaformer embed RUN --data X... --output F.parquet`: a row per sample, a column of vectors per stream."""
    import pyarrow as pa
    from pyarrow import parquet

    if output.suffix != ".parquet":
        raise UsageError("--output of embed is a Parquet file", str(output), "name it something.parquet")
    loaded = load(run, checkpoint)
    samples, root = _split(loaded, data[0]) if data in (["train"], ["valid"]) else command_inputs(loaded, data)
    vectors = list(loaded.embed_many(samples, root=root))
    names = sorted({name for row in vectors for name in row})
    columns: dict[str, Any] = {"id": [str(s.get("__id__", i)) for i, s in enumerate(samples)]}
    for name in names:
        columns[name] = pa.array(
            [row[name].tolist() if name in row else None for row in vectors], type=pa.list_(pa.float32())
        )
    parquet.write_table(pa.table(columns), output)
    Console().say(f"{len(vectors)} samples, streams {', '.join(names)}, in {output}")


def command_inputs(loaded: LoadedRun, inputs: Sequence[str]) -> tuple[list[Sample], Path | None]:
    """Samples of the command line's `--input`s."""
    preprocess = {s: loaded.model.tokenizer(s).preprocess for s in loaded.streams}
    columns: dict[str, str] = {}
    for spec in loaded.run.recipe.tasks.values():
        data = spec.data.train or spec.data.valid
        if data is not None and data.use == "manifest":
            columns |= cast(Mapping[str, str], data.knobs.get("columns", {}))
    return read_inputs(inputs, preprocess, columns)


def _split(loaded: LoadedRun, which: str) -> tuple[list[Sample], Path | None]:
    """All samples of the recipe's own training or validation data, tasks in order."""
    samples: list[Sample] = []
    root = None
    for task, spec in open_data(loaded.run.recipe, loaded.model, loaded.run.base).items():
        reader = spec.train if which == "train" else spec.valid
        if reader is None:
            raise DataError(f"--data {which}", f"task {task!r} has no such data")
        root = reader.dataset.root
        for i in range(len(reader)):
            samples.append({**reader.dataset[i], "__id__": f"{task}/{reader.dataset.sample_id(i)}"})
    return samples, root
