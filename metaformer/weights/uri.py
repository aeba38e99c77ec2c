"""Weights URIs, `SCHEME:ADDRESS[#PART]`: parsed, checked, opened. Imports no torch until one is opened.

| URI | what it names |
|---|---|
| `timm:NAME[.TAG]` | a pretrained model of timm |
| `hf:OWNER/REPO[@REVISION]` | the weights of a Hugging Face repository, safetensors first |
| `openclip:MODEL/TAG` | a pretrained model of open_clip |
| `file:PATH` | safetensors, or a `.pth`/`.pt`/`.bin` that holds nothing but tensors |
| `run:RUN_DIR` | the weights of a run of ours, best checkpoint first |

`#PART` keeps the tensors under that dotted prefix and strips it: `#visual`, `#encoders.shared`. It may be the whole
name of one tensor, of which the end stays: `#visual.proj`. `#bert.encoder.layer.6-11` keeps blocks 6 to 11 of a list of
blocks and counts them from 0; their path stays, because layouts are known by it: `bert.encoder.layer.0...`. `#text` of
an open_clip file whose text tower lies at the top level is what there is beside `visual`.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from metaformer.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

SCHEMES = ("timm", "hf", "openclip", "file", "run")
"""Schemes of the core; plugins add others through the hook `load_weights`."""

_FORMS = "timm:NAME, hf:OWNER/REPO, openclip:MODEL/TAG, file:PATH, run:RUN_DIR#PART"


@dataclass(frozen=True)
class WeightsURI:
    """`SCHEME:ADDRESS[#PART]`, taken apart."""

    text: str
    scheme: str
    address: str
    part: str | None = None


def parse_uri(uri: str) -> WeightsURI:
    """Split a URI at its first colon and its last `#`; a WeightsError names what is wrong with it."""
    scheme, colon, rest = uri.partition(":")
    if not colon or not scheme.isidentifier():
        raise WeightsError(
            f"weights {uri!r}",
            "no scheme before the address",
            f"write `file:{uri}` for a file; the schemes are {_FORMS}",
        )
    address, _, part = rest.rpartition("#") if "#" in rest else (rest, "", "")
    if scheme == "file":
        address = address.removeprefix("//")
    if not address.strip():
        raise WeightsError(f"weights {uri!r}", "nothing after the scheme", f"the schemes are {_FORMS}")
    return WeightsURI(uri, scheme, address, part.strip(".") or None)


def unknown_scheme(uri: WeightsURI) -> WeightsError:
    """The error for a scheme that neither the core nor a plugin opens."""
    close = get_close_matches(uri.scheme, SCHEMES, n=1)
    meant = f"did you mean `{close[0]}:`? " if close else ""
    return WeightsError(
        f"weights {uri.text!r}",
        f"unknown scheme `{uri.scheme}:`",
        f"{meant}the schemes are {_FORMS}, and those of installed plugins",
    )


def locate(path: str, base: Path | None) -> Path:
    """`path` from the working directory, else from `base` (the recipe's folder); the former if in neither."""
    given = Path(path).expanduser()
    if given.is_absolute() or given.exists() or base is None:
        return given
    return base / given if (base / given).exists() else given


def looked_in(path: str, base: Path | None) -> str:
    """The places `locate` tried, for an error message."""
    given = Path(path).expanduser()
    places = [given.absolute()]
    if base is not None and not given.is_absolute():
        places.append((base / given).absolute())
    return " and ".join(str(place) for place in dict.fromkeys(places))


def run_files(address: str, base: Path | None) -> tuple[Path, ...]:
    """Weight files of a run directory, or of one checkpoint folder in it: the trained, then the frozen."""
    root = locate(address, base)
    if root.is_dir() and not (root / "checkpoints").exists():
        # The folder of a recipe's runs stands for the newest of them, as everywhere.
        root = max((p.parent for p in root.glob("*/checkpoints")), default=root)
    if (root / "model.safetensors").is_file():
        checkpoint, run = root, root.resolve().parent.parent
    else:
        checkpoint, run = _checkpoint(root, address, base), root
    files = (checkpoint / "model.safetensors", run / "frozen.safetensors")
    return tuple(file for file in files if file.is_file())


def _checkpoint(run: Path, address: str, base: Path | None) -> Path:
    folder = run / "checkpoints"
    if not folder.is_dir():
        raise WeightsError(
            f"weights run:{address}",
            f"no run directory with checkpoints; looked in {looked_in(address, base)}",
            "name the run directory that `metaformer train` printed",
        )
    for name in ("best", "latest"):
        entry = folder / name
        # A pointer is a folder, a link to one, or a text file that holds the name of one.
        if entry.is_file() and entry.stat().st_size < 4096:
            entry = folder / Path(entry.read_text(encoding="utf-8").strip()).name
        if (entry / "model.safetensors").is_file():
            return entry
    complete = sorted(folder.glob("step_*/model.safetensors"))
    if complete:
        return complete[-1].parent
    raise WeightsError(
        f"weights run:{address}",
        f"no checkpoint with a model.safetensors in {folder}",
        "train the run until its first checkpoint, or name another run",
    )


def check_file(uri: str, base: Path | None = None) -> str | None:
    """What is wrong with a URI as far as this machine can tell at once; None where nothing is.

    Opens nothing and asks no network: `timm:`, `hf:` and `openclip:` addresses pass, as do plugins' schemes.
    """
    try:
        parsed = parse_uri(uri)
        if parsed.scheme == "run":
            run_files(parsed.address, base)
    except WeightsError as error:
        return f"{error.found}; {error.do}" if error.do else error.found
    if parsed.scheme == "openclip" and "/" not in parsed.address:
        return "an open_clip address is MODEL/TAG, such as openclip:ViT-B-16/laion2b_s34b_b88k"
    if parsed.scheme != "file":
        return None
    path = locate(parsed.address, base)
    if not path.is_file():
        return f"no such file; looked in {looked_in(parsed.address, base)}"
    return f"{path} is empty" if path.stat().st_size == 0 else None


def open_weights(uri: str, base: Path | None = None) -> dict[str, Tensor] | None:
    """Tensors behind a URI under the source's own names, on the CPU; None where the scheme is not the core's.

    `base` is the folder relative paths are tried in after the working directory. Raises WeightsError."""
    from metaformer.weights.source import open_source

    source = open_source(uri, base)
    return None if source is None else source.tensors
