"""Files of Hugging Face repositories: from the cache, else from the hub, else an error that says what to do.

Ours differs from `hf_hub_download` alone: a cached file is used without asking the hub (the receipt's digest
says which one it was), and a machine without network gets its answer in seconds, not after many retries.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from metaformer.errors import WeightsError

REACH_SECONDS = 5.0
"""How long the hub may take to answer before the machine counts as offline."""

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
OPEN_CLIP_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)


def fetch_weights(repo: str, names: Sequence[str], asked: str, revision: str | None = None) -> tuple[Path, ...]:
    """Local paths of the first of `names` the repository has; of all shards where that is an index."""
    path = fetch(repo, names, asked, revision)
    if not path.name.endswith(".index.json"):
        return (path,)
    try:
        shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(asked, f"{path.name} of {repo} is no index of shards: {error}") from error
    if not all(isinstance(shard, str) and Path(shard).name == shard for shard in shards):
        raise WeightsError(asked, f"{path.name} of {repo} names files outside the repository")
    return tuple(fetch(repo, [shard], asked, revision) for shard in shards)


def fetch(repo: str, names: Sequence[str], asked: str, revision: str | None = None) -> Path:
    """Local path of the first of `names` the repository has."""
    found = cached(repo, names, asked, revision)
    if found is not None:
        return found
    hub = _hub(asked)
    if hub.constants.HF_HUB_OFFLINE:
        raise _offline(repo, names, asked, "HF_HUB_OFFLINE is set")
    reason = _unreachable(hub.constants.ENDPOINT)
    if reason:
        raise _offline(repo, names, asked, f"the hub cannot be reached ({reason})")
    return _download(repo, names, asked, revision)


def cached(repo: str, names: Sequence[str], asked: str, revision: str | None = None) -> Path | None:
    """Local path of the first of `names` that is in the cache already; asks no network."""
    hub = _hub(asked)
    for name in names:
        try:
            path = hub.try_to_load_from_cache(repo, name, revision=revision)
        except hub.errors.HFValidationError as error:
            raise WeightsError(asked, f"{repo!r} is no repository name", "write OWNER/NAME") from error
        if isinstance(path, str):
            return Path(path)
    return None


def _download(repo: str, names: Sequence[str], asked: str, revision: str | None) -> Path:
    hub = _hub(asked)
    for name in names:
        try:
            return Path(hub.hf_hub_download(repo, name, revision=revision))
        except hub.errors.LocalEntryNotFoundError as error:
            raise _offline(repo, names, asked, str(error)) from error
        except hub.errors.EntryNotFoundError:
            continue
        except hub.errors.RepositoryNotFoundError as error:
            raise WeightsError(
                asked,
                f"the hub has no repository {repo}, or you may not read it",
                "check the name; for a private or gated one accept its terms and run `hf auth login`",
            ) from error
        except hub.errors.RevisionNotFoundError as error:
            raise WeightsError(asked, f"{repo} has no revision {revision}", "name another one") from error
        except (hub.errors.HfHubHTTPError, OSError) as error:
            raise WeightsError(asked, f"downloading {name} of {repo} failed: {error}", "try again") from error
    raise WeightsError(
        asked,
        f"{repo} has none of {', '.join(names)}",
        "download the right file yourself and name it with file:PATH",
    )


def _offline(repo: str, names: Sequence[str], asked: str, reason: str) -> WeightsError:
    cache = _hub(asked).constants.HF_HUB_CACHE
    return WeightsError(
        asked,
        f"{names[0]} of {repo} is not in the cache {cache}, and {reason}",
        f"where there is network, run `hf download {repo} {names[0]}` and copy the cache folder here (or set "
        "HF_HUB_CACHE to it), or give a local file: --set encoders.shared.weights=file:PATH",
    )


def _unreachable(endpoint: str) -> str:
    """Why nothing answers at `endpoint`; empty where something does. Honours the environment's proxies."""
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=REACH_SECONDS):
            return ""
    except urllib.error.HTTPError:
        return ""  # it answered, if only to object
    except urllib.error.URLError as error:
        # A certificate that only this client rejects still shows that the way there is open.
        return "" if isinstance(error.reason, ssl.SSLError) else str(error.reason)
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__


def _hub(asked: str) -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise WeightsError(
            asked, "the package huggingface-hub is not installed", "pip install 'metaformer[huggingface]'"
        ) from error
    module: ModuleType = huggingface_hub
    return module
