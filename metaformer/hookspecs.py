"""The hooks a plugin may implement, and `Component`, the thing it registers. Imports nothing heavy.

A plugin is a distribution with an entry point in the group `metaformer`. The module behind it holds hook
implementations only, declares `METAFORMER_API = "1.0"`, and imports nothing but this:

    from metaformer import Component, hookimpl

    METAFORMER_API = "1.0"

    @hookimpl
    def register_tokenizers():
        return [Component("smell", "metaformer_plugin_smell.tokenizer:SmellTokenizer", "Odour sensor arrays.")]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import torch

API = "1.0"
"""Version of the plugin interface. Another major number is refused; a newer minor one is refused as well."""

GROUP = "metaformer"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@dataclass(frozen=True)
class Component:
    """A registered name and the dotted path of the class behind it, imported only when a recipe uses it."""

    name: str
    """What a recipe writes after `use:`."""
    path: str
    """`package.module:Class`."""
    summary: str = ""
    """One sentence for `metaformer plugins`."""


class Hooks:
    """Every hook. The `register_*` hooks are called once per process, on every rank, at discovery, before any
    torch import; they must be instant and have no side effects. All results are collected."""

    @hookspec
    def register_tokenizers(self) -> Iterable[Component]:
        """Tokenizers, by modality name. Classes: `metaformer.base.Tokenizer`."""

    @hookspec
    def register_encoders(self) -> Iterable[Component]:
        """Encoders. Classes: `metaformer.base.Encoder`."""

    @hookspec
    def register_bridges(self) -> Iterable[Component]:
        """Bridges. Classes: `metaformer.base.Bridge`."""

    @hookspec
    def register_heads(self) -> Iterable[Component]:
        """Heads. Classes: `metaformer.base.Head`."""

    @hookspec
    def register_objectives(self) -> Iterable[Component]:
        """Objectives. Classes: `metaformer.base.Objective`."""

    @hookspec
    def register_metrics(self) -> Iterable[Component]:
        """Metrics. Classes: `metaformer.base.Metric`."""

    @hookspec
    def register_datasets(self) -> Iterable[Component]:
        """Data sets. Classes: `metaformer.base.Dataset`."""

    @hookspec(firstresult=True)
    def load_weights(self, uri: str) -> Mapping[str, torch.Tensor] | None:
        """Tensors behind a weights URI such as `timm:NAME`, or None where the scheme is not yours.

        Called on every rank when a recipe's `weights:` is resolved; the first answer that is not None wins.
        Keys are those of the source; mapping them onto the model is the core's job and leaves a receipt."""

    @hookspec
    def run_started(self, run: Any) -> None:
        """A run is about to take its first step. Rank zero. `run` is a `metaformer.run.Run`."""

    @hookspec
    def step_finished(self, run: Any, record: Mapping[str, Any]) -> None:
        """An optimizer step ended. Rank zero. `record` is the line written to `metrics.jsonl`."""

    @hookspec
    def evaluated(self, run: Any, record: Mapping[str, Any]) -> None:
        """An evaluation ended. Rank zero. `record` is the line written to `metrics.jsonl`."""

    @hookspec
    def run_finished(self, run: Any, error: BaseException | None) -> None:
        """The run ended, well or not. Rank zero. `error` is what ended it, or None."""

    @hookspec
    def save_state(self, run: Any) -> Mapping[str, Any]:
        """A checkpoint is about to be saved: what the plugin needs to go on, as plain data for JSON. Rank zero. It is
        kept under the plugin's own name and version."""

    @hookspec
    def load_state(self, run: Any, state: Mapping[str, Any]) -> None:
        """The run goes on from a checkpoint, before its first step. Rank zero. `state`: what `save_state` said then."""


KINDS: Mapping[str, str] = {
    "tokenizer": "register_tokenizers",
    "encoder": "register_encoders",
    "bridge": "register_bridges",
    "head": "register_heads",
    "objective": "register_objectives",
    "metric": "register_metrics",
    "dataset": "register_datasets",
}
"""Component kind → the hook that registers it."""
