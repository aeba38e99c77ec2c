"""Opening a weights URI: tensors under the source's names, digests, and what a config says besides."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor

from metaformer.errors import WeightsError
from metaformer.weights.files import file_digest, read_tensors, tensor_digest
from metaformer.weights.hub import OPEN_CLIP_FILES, WEIGHT_FILES, fetch, fetch_weights
from metaformer.weights.uri import WeightsURI, locate, looked_in, parse_uri, run_files

FACTS_KEY = "metaformer.facts"
"""Where a safetensors file of ours keeps its facts."""
OLD_NORMS = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
TEXT_PARTS = ("text", "text_model")
CAUSAL = {"clip": True, "align": False, "siglip": False}
"""Whether the text tower of a family is, by the `model_type` of its config."""
RANGE = re.compile(r"(.+)\.(\d{1,6})-(\d{1,6})")
"""A part that is a range of blocks."""


@dataclass(frozen=True)
class Facts:
    """What shapes do not tell; None where the source does not say."""

    num_heads: int | None = None
    activation: str | None = None
    norm_eps: float | None = None
    causal: bool | None = None


@dataclass(frozen=True)
class Source:
    """Everything behind a URI. Its names are the source's own, but for `LayerNorm.gamma` and `LayerNorm.beta` of the
    first published BERT files, which are read as weight and bias."""

    uri: WeightsURI
    tensors: dict[str, Tensor]
    files: tuple[Path, ...] = ()
    facts: Facts = field(default_factory=Facts)

    def digests(self) -> dict[str, str]:
        """File name → `sha256:…`; with its folder where names repeat."""
        names = Counter(path.name for path in self.files)
        return {
            path.name if names[path.name] == 1 else f"{path.parent.name}/{path.name}": file_digest(path)
            for path in self.files
        }

    def digest(self, files: Mapping[str, str]) -> str:
        """One `sha256:…` for the whole, given `digests()`."""
        if not files:
            return tensor_digest(self.tensors)
        if len(files) == 1:
            return next(iter(files.values()))
        text = "".join(f"{name} {digest}\n" for name, digest in sorted(files.items()))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def open_source(uri: str, base: Path | None = None, *, default_part: str | None = None) -> Source | None:
    """The source behind a URI of the core's schemes, else None.

    `default_part` is the part of a `run:` URI that names none. Raises WeightsError."""
    parsed = parse_uri(uri)
    opener = _OPENERS.get(parsed.scheme)
    if opener is None:
        return None
    part = parsed.part or (default_part if parsed.scheme == "run" else None)
    source = opener(parsed, base)
    source = replace(source, tensors={_modern(key): value for key, value in source.tensors.items()})
    return source if part is None else replace(source, tensors=select(source.tensors, part, uri))


def _modern(name: str) -> str:
    for old, new in OLD_NORMS.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def select(tensors: Mapping[str, Tensor], part: str, uri: str) -> dict[str, Tensor]:
    """Tensors under a dotted prefix, without it; or one tensor, or a range of blocks: see `metaformer.weights.uri`."""
    prefix = f"{part}."
    found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if found:
        return found
    if part in tensors:
        return {part.rpartition(".")[2]: tensors[part]}
    if blocks := RANGE.fullmatch(part):
        return _blocks(tensors, blocks[1], int(blocks[2]), int(blocks[3]), uri)
    if part == "text" and "ln_final.weight" in tensors:
        return {key: value for key, value in tensors.items() if not key.startswith("visual.")}
    depth = part.count(".") + 1
    parts = sorted({".".join(key.split(".")[:depth]) for key in tensors if key.count(".") >= depth})
    close = get_close_matches(part, parts, n=1)
    raise WeightsError(
        f"weights {uri!r}",
        f"no part {part!r}; there is {', '.join(parts[:12]) or 'no part at all'}",
        f"did you mean #{close[0]}?" if close else "name one of these after the #",
    )


def _blocks(tensors: Mapping[str, Tensor], path: str, first: int, last: int, uri: str) -> dict[str, Tensor]:
    """Blocks first..last of the list at `path`, counted from 0; the path stays."""
    if first > last:
        raise WeightsError(f"weights {uri!r}", f"block {first} comes after block {last}", f"write {last}-{first}")
    under = re.compile(rf"{re.escape(path)}\.(\d+)\.(.+)")
    matches = {key: match for key in tensors if (match := under.fullmatch(key))}
    there = {int(match[1]) for match in matches.values()}
    absent = sorted({*range(first, last + 1)} - there)
    if absent:
        has = f"{path} has blocks {min(there)} to {max(there)}" if there else f"no blocks at {path!r}"
        raise WeightsError(
            f"weights {uri!r}", f"no block {', '.join(map(str, absent))}: {has}", "name blocks that are there"
        )
    return {
        f"{path}.{int(match[1]) - first}.{match[2]}": tensors[key]
        for key, match in matches.items()
        if first <= int(match[1]) <= last
    }


def _open_file(uri: WeightsURI, base: Path | None) -> Source:
    path = locate(uri.address, base)
    if not path.exists():
        raise WeightsError(
            f"weights {uri.text!r}",
            f"no such file; looked in {looked_in(uri.address, base)}",
            "put the file there, or name another: --set encoders.shared.weights=file:PATH",
        )
    tensors, metadata = read_tensors(path)
    return Source(uri, tensors, (path,), _stored_facts(metadata))


def _open_run(uri: WeightsURI, base: Path | None) -> Source:
    files = run_files(uri.address, base)
    tensors: dict[str, Tensor] = {}
    for path in reversed(files):  # what was trained comes first in `files` and wins
        tensors.update(read_tensors(path)[0])
    return Source(uri, tensors, files)


def _open_hf(uri: WeightsURI, base: Path | None) -> Source:
    repo, _, revision = uri.address.partition("@")
    asked = f"weights {uri.text!r}"
    files = fetch_weights(repo, (*WEIGHT_FILES, *OPEN_CLIP_FILES), asked, revision or None)
    return Source(uri, _read_all(files), files, _hf_facts(repo, asked, revision or None, uri.part))


def _open_openclip(uri: WeightsURI, base: Path | None) -> Source:
    asked = f"weights {uri.text!r}"
    try:
        import open_clip
    except ImportError as error:
        raise WeightsError(asked, "the package open-clip-torch is not installed", "pip install it") from error
    model, _, tag = uri.address.partition("/")
    config = open_clip.get_model_config(model)
    if config is None:
        raise _no_such(asked, "model", model, open_clip.list_models())
    pretrained = open_clip.get_pretrained_cfg(model, tag)
    if not pretrained:
        raise _no_such(asked, "tag", tag, open_clip.list_pretrained_tags_by_model(model))
    repo, _, name = pretrained.get("hf_hub", "").rpartition("/")
    if not repo:
        raise _not_on_hub(asked, pretrained.get("url", ""))
    files = fetch_weights(repo, (name,) if name else (*OPEN_CLIP_FILES, *WEIGHT_FILES), asked)
    return Source(uri, _read_all(files), files, _open_clip_facts(config, pretrained, uri.part))


def _open_timm(uri: WeightsURI, base: Path | None) -> Source:
    asked = f"weights {uri.text!r}"
    try:
        import timm
    except ImportError as error:
        raise WeightsError(asked, "the package timm is not installed", "pip install 'metaformer[timm]'") from error
    name = uri.address
    try:
        config = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise _no_such(asked, "pretrained model", name, timm.list_pretrained()) from error
    if config is None or not timm.is_model(name):
        raise _no_such(asked, "pretrained model", name, timm.list_pretrained())
    if not config.hf_hub_id:
        raise _not_on_hub(asked, config.url if isinstance(config.url, str) else "")
    names = (config.hf_hub_filename,) if config.hf_hub_filename else WEIGHT_FILES
    path = fetch(config.hf_hub_id, names, asked)
    # timm knows how the file of each of its models is to be read; its state dict is then in one naming.
    # Our own rules read the file once before, and refuse what is no plain tensor.
    read_tensors(path)
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    return Source(uri, dict(model.state_dict()), (path,), _timm_facts(model))


_OPENERS: Mapping[str, Callable[[WeightsURI, Path | None], Source]] = {
    "timm": _open_timm,
    "hf": _open_hf,
    "openclip": _open_openclip,
    "file": _open_file,
    "run": _open_run,
}


def _read_all(files: tuple[Path, ...]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in files:
        tensors.update(read_tensors(path)[0])
    return tensors


def _no_such(asked: str, what: str, name: str, known: list[str]) -> WeightsError:
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    there = f"did you mean {', '.join(close)}?" if close else f"{len(known)} are known: {', '.join(known[:5])}, ..."
    return WeightsError(asked, f"no {what} {name!r}", there)


def _not_on_hub(asked: str, url: str) -> WeightsError:
    where = f"from {url} " if url else ""
    return WeightsError(
        asked,
        "its weights are not on the Hugging Face hub",
        f"download them {where}and name them with file:PATH",
    )


def _stored_facts(metadata: Mapping[str, str]) -> Facts:
    """Facts our own `convert` left in a file; the unexpected counts as not said: metadata may be anyone's."""
    try:
        stored = json.loads(metadata.get(FACTS_KEY, "{}"))
    except ValueError:
        return Facts()
    return _facts(stored) if isinstance(stored, dict) else Facts()


def _facts(values: Mapping[str, Any]) -> Facts:
    heads, activation, eps, causal = (values.get(key) for key in ("num_heads", "activation", "norm_eps", "causal"))
    return Facts(
        num_heads=heads if isinstance(heads, int) and heads > 0 else None,
        activation=activation if isinstance(activation, str) else None,
        norm_eps=eps if isinstance(eps, float) else None,
        causal=causal if isinstance(causal, bool) else None,
    )


def _of_text(part: str | None) -> bool:
    """Whether a part is that of a text tower, of which configs speak apart."""
    return part is not None and part.split(".")[0] in TEXT_PARTS


def _hf_facts(repo: str, asked: str, revision: str | None, part: str | None) -> Facts:
    """Facts of the repository's config, where it has one, about the tower that `part` means."""
    try:
        config = json.loads(fetch(repo, ("config.json",), asked, revision).read_text(encoding="utf-8"))
    except (WeightsError, ValueError):
        return Facts()  # the weights alone are enough to go on; the receipt then has no word on heads
    family = config.get("model_type")
    text = _of_text(part)
    config = config.get("text_config" if text else "vision_config") or config
    return _facts(
        {
            "num_heads": config.get("num_attention_heads"),
            "activation": config.get("hidden_act"),
            "norm_eps": config.get("layer_norm_eps"),
            "causal": CAUSAL.get(family) if text else None,
        }
    )


def _open_clip_facts(config: Mapping[str, Any], pretrained: Mapping[str, Any], part: str | None) -> Facts:
    quick = pretrained.get("quick_gelu", config.get("quick_gelu", False))
    activation = "quick_gelu" if quick else "gelu"
    text, vision = config.get("text_cfg", {}), config.get("vision_cfg", {})
    if _of_text(part):
        if "hf_model_name" in text:
            return Facts()  # a tower of another kind
        return _facts(
            {
                "num_heads": text.get("heads"),
                "activation": activation,
                "causal": not text.get("no_causal_mask", False),
            }
        )
    if not isinstance(vision.get("width"), int) or not isinstance(vision.get("layers"), int):
        return Facts()  # a tower of another kind
    return Facts(vision["width"] // vision.get("head_width", 64), activation)


def _timm_facts(model: Any) -> Facts:
    """Facts of a timm ViT, read off its first block; none for models of another kind."""
    from timm.layers import QuickGELU
    from timm.models.vision_transformer import Block, VisionTransformer
    from torch.nn import GELU

    if not isinstance(model, VisionTransformer) or not isinstance(model.blocks[0], Block):
        return Facts()
    block = model.blocks[0]
    kinds = {GELU: "gelu", QuickGELU: "quick_gelu"}
    return Facts(block.attn.num_heads, kinds.get(type(block.mlp.act)), block.norm1.eps)
