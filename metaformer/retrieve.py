"""`metaformer retrieve`: retrieval both ways over a run's validation data, re-ranked by a matching head if asked.

Source: the protocol of ALBEF (arXiv 2107.07651): the nearest candidates by embedding are read jointly with the query,
and ordered by how well the matching head says they fit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaformer.base import Head, Objective
from metaformer.build import open_data
from metaformer.data.loader import Reader, eval_addresses, load_batches
from metaformer.durable import write_atomic
from metaformer.errors import DataError, UsageError
from metaformer.evaluate import eval_batch, restore
from metaformer.metrics.retrieval import distinct, median_rank, rank_in, recall, things
from metaformer.model import MetaFormer
from metaformer.objectives.matching import MATCH
from metaformer.report.console import Console
from metaformer.run import find_run, open_run
from metaformer.types import UNKNOWN, Batch, TokenBatch
from metaformer.views import repaired

TOP = (1, 5, 10)
AT_ONCE = 64
"""Pairs that are read jointly at a time."""


@dataclass(frozen=True)
class Pool:
    """Every sample of a data set, embedded; tokens of all of them where pairs will be read jointly."""

    one: Float[Tensor, "N E"]
    other: Float[Tensor, "N E"]
    identity: Int[Tensor, N]
    tokens: Batch
    """A batch of all samples, whose memo has what joint passes begin with."""


def collect(
    model: MetaFormer, reader: Reader, heads: tuple[str, str], size: int, same: str | None, rerank: str | None
) -> Pool:
    """Embed a task's samples; those that lack either side are left out. Runs where the model is."""
    names = _beginnings(model, cast(Head, model.heads[rerank]).reads) if rerank else []
    ones, others, identities = [], [], []
    kept: dict[tuple[str, str], list[TokenBatch]] = {name: [] for name in names}
    device = next(iter(model.parameters())).device
    with torch.inference_mode():
        for batch in load_batches({reader.task: reader}, eval_addresses(reader.task, len(reader), size, 0, 1)):
            if batch.bad:
                raise DataError(batch.bad[0].error)
            here = batch.to(device)
            one, other = (model.predict(here, head) for head in heads)
            rows = (one.present & other.present).nonzero()[:, 0]
            ones.append(one.value[rows].float().cpu())
            others.append(other.value[rows].float().cpu())
            unknown = torch.full((len(batch),), UNKNOWN)
            identities.append((batch.targets[same] if same else unknown)[rows.cpu()])
            for (kind, name), tokens in kept.items():
                found = model.tokens(here, name) if kind == "tokens" else model.stream(here, name)
                tokens.append(_rows(found, rows))
    everything = Batch(reader.task, {}, {}, {}, [""] * sum(map(len, ones)))
    everything.memo.update({key: _together(tokens) for key, tokens in kept.items()})
    return Pool(torch.cat(ones), torch.cat(others), things(torch.cat(identities)), everything)


def _beginnings(model: MetaFormer, name: str) -> list[tuple[str, str]]:
    """What a stream of pairs is put together from, each made of one side alone: tokens, or streams after a pass."""
    if name in model.bridge_reads:
        return [
            part
            for read in model.bridge_reads[name].values()
            for part in ([("stream", read)] if len(model.sources(read)) == 1 else _beginnings(model, read))
        ]
    return [("tokens", read) for read in model.routes[name].reads]


def _rows(tokens: TokenBatch, rows: Int[Tensor, M]) -> TokenBatch:
    return tokens._replace(
        x=tokens.x[rows].cpu(), mask=tokens.mask[rows].cpu(), ids=None, positions=None, dense=None, units=None
    )


def _together(parts: Sequence[TokenBatch]) -> TokenBatch:
    """Batches of one stream as one, padded to the longest."""
    length = max(part.x.shape[1] for part in parts)
    pad = torch.nn.functional.pad
    return parts[0]._replace(
        x=torch.cat([pad(part.x, (0, 0, 0, length - part.x.shape[1])) for part in parts]),
        mask=torch.cat([pad(part.mask, (0, length - part.mask.shape[1])) for part in parts]),
    )


def matched(model: MetaFormer, pool: Pool, head: str, sides: Sequence[set[str]], one: Tensor, other: Tensor) -> Tensor:
    """What a matching head says about pairs of samples [N]: the first side of `one`, the second of `other`."""
    said = []
    with torch.inference_mode():
        for start in range(0, len(one), AT_ONCE):
            at = slice(start, start + AT_ONCE)
            rows = dict.fromkeys(sides[1], other[at]) | dict.fromkeys(sides[0], one[at])
            said.append(model.predict(repaired(pool.tokens, rows), head).value[:, MATCH].float().cpu())
    return torch.cat(said)


def reranked(
    scores: Float[Tensor, "Q K"], fits: Float[Tensor, "Q N"], candidates: Int[Tensor, "Q N"]
) -> Float[Tensor, "Q K"]:
    """Scores in which each query's candidates come first, ordered by how they fit, and the others keep their order."""
    # Cosines are at most 1, and no candidate may fall behind them.
    lifted = fits - fits.amin(dim=1, keepdim=True) + 2.0
    return scores.scatter(1, candidates, lifted)


def retrieve_command(
    path: Path,
    task: str | None = None,
    rerank: str | None = None,
    candidates: int = 16,
    output: Path | None = None,
    checkpoint: str = "best",
) -> None:
    """`metaformer retrieve RUN`: recall and median rank both ways, before and after re-ranking."""
    run, model, folder = restore(open_run(find_run(path), partial=True), checkpoint)
    task, objective = _paired(model, task)
    heads = objective.pairs[0]
    if rerank is not None and (rerank not in model.heads or cast(Head, model.heads[rerank]).size != 2):
        two = [name for name, head in model.heads.items() if cast(Head, head).size == 2]
        raise UsageError(f"--rerank {rerank}", "no head of two classes", f"one of: {', '.join(two) or 'none'}")
    reader = open_data(run.recipe, model, run.base)[task].valid
    if reader is None:
        raise DataError(f"retrieve over task {task!r}", "it has no valid data", "add `data.valid` to the recipe")
    pool = collect(model, reader, heads, eval_batch(run.recipe), objective.identity, rerank)
    rows, results = [], {}
    sides = [model.sources(head) for head in heads]
    for name, back in ((f"{heads[0]} → {heads[1]}", False), (f"{heads[1]} → {heads[0]}", True)):
        asks, answers = (pool.other, pool.one) if back else (pool.one, pool.other)
        asking, answering = distinct(asks, pool.identity), distinct(answers, pool.identity)
        scores = asks[asking] @ answers[answering].T
        own = pool.identity[asking][:, None] == pool.identity[answering][None, :]
        found = {"by embedding": rank_in(scores, own)}
        if rerank is not None:
            nearest = scores.topk(min(candidates, len(answering)), dim=1).indices
            pairs = [asking[:, None].expand_as(nearest).flatten(), answering[nearest].flatten()]
            one, other = reversed(pairs) if back else pairs
            fits = matched(model, pool, rerank, sides, one, other).view_as(nearest)
            found[f"re-ranked by {rerank}"] = rank_in(reranked(scores, fits, nearest), own)
        for how, ranks in found.items():
            values = {f"recall@{k}": recall(ranks, k) for k in TOP} | {"median rank": median_rank(ranks)}
            results[f"{name}, {how}"] = {"queries": len(asking), "keys": len(answering), **values}
            rows.append([name, how, str(len(asking)), str(len(answering)), *(f"{v:.4f}" for v in values.values())])
    columns = ["", "", "queries", "keys", *(f"recall@{k}" for k in TOP), "median rank"]
    Console().table(f"{run.path.name}, {folder.name}, task {task}", columns, rows)
    if output is not None:
        write_atomic(output, json.dumps(results, indent=1))


def _paired(model: MetaFormer, task: str | None) -> tuple[str, Objective]:
    """The task to look at, and its objective that says what belongs together."""
    found = {
        name: objective
        for name, objectives in model.objectives.items()
        for objective in reversed(cast(Sequence[Objective], objectives))
        if objective.pairs
    }
    if task is None and len(found) == 1:
        task = next(iter(found))
    if task is None or task not in found:
        asked = f"--task {task}" if task else "retrieve"
        told = ", ".join(found) or "none"
        raise UsageError(asked, f"tasks with two heads that belong together: {told}", "name one with --task")
    return task, found[task]
