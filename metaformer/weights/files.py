"""Reading and writing weight files without trusting them.

A weight file from a stranger is data: safetensors, or a torch file read with `weights_only=True`. What is no
plain tensor in it, or claims to be larger than its own bytes, is refused before anything is allocated.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from metaformer.errors import WeightsError

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training scripts keep the state dict among other things."""


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a file by name, on the CPU, and the file's own metadata (safetensors only).

    The format is told by content, not by suffix: published files often have none."""
    start = _first_bytes(path)
    if start[8:9] == b"{":
        tensors, metadata = _read_safetensors(path)
    elif start[:2] == b"PK" or start[:1] == b"\x80":
        tensors, metadata = _read_torch(path), {}
    else:
        raise _unreadable(path, _guess(start))
    if not tensors:
        raise _unreadable(path, "it holds no tensors")
    for key, tensor in tensors.items():
        _refuse_odd(path, key, tensor)
    return tensors, metadata


def file_digest(path: Path) -> str:
    """`sha256:…` of a file's bytes."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """`sha256:…` over names, types, shapes and contents, in the order of names."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return "sha256:" + digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write safetensors so that `path` is either absent or whole; an existing file is never touched."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # Clones, because views into one storage (the parts of a joined matrix) are refused by the format.
    ready = {key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(ready, temporary, dict(metadata))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if path.exists():
            raise exists(path)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"writing {path}", str(error), "choose a folder that can be written to") from error
    finally:
        if temporary.exists():
            temporary.unlink()


def exists(path: Path) -> WeightsError:
    """The error for an output that is there already."""
    return WeightsError(f"writing {path}", "the file exists", "choose another name, or delete it first")


def _first_bytes(path: Path) -> bytes:
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no such file"
        raise WeightsError(f"reading weights from {path}", kind, "name a safetensors or .pth file")
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise _unreadable(path, str(error)) from error


def _guess(start: bytes) -> str:
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; the weights themselves were not downloaded"
    if start.lstrip().startswith(b"<"):
        return "it is a web page, not weights"
    return "neither a safetensors nor a torch file"


def _unreadable(path: Path, found: str) -> WeightsError:
    return WeightsError(
        f"reading weights from {path}",
        found,
        "download the file again; files of tensors only are read: safetensors (best), .pth, .pt, .bin",
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            return tensors, dict(file.metadata() or {})
    except Exception as error:  # the parser of a hostile file may fail in any way
        raise _unreadable(path, f"not a valid safetensors file: {error}") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    zipped = zipfile.is_zipfile(path)
    _refuse_bombs(path, _pickles(path) if zipped else None)
    try:
        # Training scripts keep their arguments beside the weights as a Namespace, which is inert.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # the parser of a hostile file may fail in any way
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"reading weights from {path}",
            f"it holds more than tensors, or is damaged, and was not run ({_code_in(path) or reason})",
            "ask its author for safetensors, or convert it yourself in a throw-away environment",
        ) from error
    return _unwrap(path, content)


def _pickles(path: Path) -> tuple[int, ...]:
    """Where the pickles of a zipped torch file begin. Members must be stored as they are, as torch writes them:
    compressed ones can unpack to any size."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            members = archive.infolist()
            starts = []
            for member in members:
                if member.filename.lower().endswith("data.pkl"):  # torch's reader ignores case
                    file.seek(member.header_offset + 26)
                    name, extra = struct.unpack("<HH", file.read(4))
                    starts.append(member.header_offset + 30 + name + extra)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise _unreadable(path, f"a damaged archive: {error}") from error
    compressed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    if compressed:
        raise _unreadable(path, f"an archive with compressed members ({compressed[0]}), not written by torch")
    return tuple(starts)


def _refuse_bombs(path: Path, starts: tuple[int, ...] | None) -> None:
    """`weights_only` lets `bytearray(10**11)` pass: a call without harm but for its size. No state dict has any.

    `starts`: where the pickles of the file begin; None for the five in a row of the older format."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for start in (0, None, None, None, None) if starts is None else starts:
            if start is not None:
                content.seek(start)
            if any(name.endswith(" bytearray") for name in _called(content)):
                raise _unreadable(path, "it makes byte arrays of any size, which are no tensors")


def _called(content: mmap.mmap) -> set[str]:
    """Names that the pickle at the file's position mentions, up to where it is damaged."""
    names: set[str] = set()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in strings that are none
            for operation, argument, _ in pickletools.genops(cast(IO[bytes], content)):
                if operation.name in ("GLOBAL", "INST"):
                    names.add(str(argument))
    except (ValueError, IndexError, struct.error, OverflowError, MemoryError):
        pass  # no pickle from here on: what is wrong with it is for torch to say
    return names


def _code_in(path: Path) -> str:
    """Names of the functions and classes a torch file wants to call, so that a reader can judge it."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # only a nicety on the way to an error that is raised anyway
        return ""
    return f"it wants {', '.join(sorted(names)[:5])}" if names else ""


def _unwrap(path: Path, content: Any) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        tensors = {k: v.detach() for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if tensors:
            return tensors
        inner = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            raise _unreadable(path, f"a dictionary without tensors; its keys are {_keys(content)}")
        content = content[inner]
    raise _unreadable(path, f"a {type(content).__name__} instead of a dictionary of tensors")


def _keys(content: Mapping[Any, Any]) -> list[str]:
    """The first keys, short: those of a stranger may be of any kind and size."""
    return [key[:40] if isinstance(key, str) else type(key).__name__ for key in list(content)[:8]]


def _refuse_odd(path: Path, key: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise _unreadable(path, f"{key} is not a plain dense tensor")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise _unreadable(path, f"{key} claims shape {tuple(tensor.shape)}, more than the bytes it has")
