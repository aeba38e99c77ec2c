"""What every attack needs: a payload that leaves a mark, a clock, and a measure of memory."""

from __future__ import annotations

import io
import json
import math
import os
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metaformer.errors import DataError, MetaformerError, RecipeError
from metaformer.yamlfile import read_yaml

SECONDS = 1.0
"""What a refusal may take."""


class Trap:
    """Makes a file when it is unpickled; only `pathlib` is needed to spring it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)

    @property
    def sprung(self) -> bool:
        return self.mark.exists()

    def would_spring(self, unprotected: Callable[[], Any]) -> None:
        """The proof that the attack is one: without our care the mark is made. Takes it away again."""
        assert not self.sprung
        unprotected()
        assert self.sprung
        self.mark.unlink()


@pytest.fixture
def trap(tmp_path_factory):
    return Trap(tmp_path_factory.mktemp("trap") / "sprung")


@pytest.fixture
def refuse(request):
    """`refuse(call, says)`: the MetaformerError that `call` ends in, within a second, which says what to do."""

    def check(call: Callable[[], Any], says: str | None = None, error: type[MetaformerError] = MetaformerError):
        seconds = math.inf
        # The best of three: a first call may import what it needs. What counts is the clock on the wall; where other
        # processes hold the core, it is the time on the core, with a bound on the wall that no wait would keep.
        for _ in range(3):
            wall, core = time.perf_counter(), time.process_time()
            with pytest.raises(error, match=says) as caught:
                call()
            wall, core = time.perf_counter() - wall, time.process_time() - core
            assert wall < 10 * SECONDS
            seconds = min(seconds, wall, core if os.getloadavg()[0] > len(os.sched_getaffinity(0)) else wall)
            if seconds < SECONDS:
                break
        request.node.user_properties.append(("refusal_seconds", f"{seconds:.4f}"))
        assert seconds < SECONDS
        refusal = caught.value
        if isinstance(refusal, RecipeError):
            assert all(problem.found and problem.do for problem in refusal.problems)
        else:
            assert refusal.found
            assert refusal.do
        assert len(str(refusal)) < 3000  # whatever the stranger wrote is not repeated at length
        return refusal

    return check


def peak() -> int:
    """KiB that this process has held at most since it was last asked to forget."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


@pytest.fixture
def memory():
    """`with memory(mib):` fails where what is inside takes more than that."""

    @contextmanager
    def limit(mib: int) -> Iterator[None]:
        forget = Path("/proc/self/clear_refs")
        if not forget.exists():
            yield  # no Linux: the clock alone has to do
            return
        forget.write_text("5")
        before = peak()
        yield
        assert (peak() - before) / 1024 < mib

    return limit


@pytest.fixture
def safetensors(tmp_path):
    """Writes a safetensors file with any header, `size` being the length it claims."""

    def write(header: dict[str, Any] | bytes, data: bytes = b"", size: int | None = None) -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = tmp_path / "x.safetensors"
        path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)
        return path

    return write


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Writes a small sound recipe, changed by replacing text, into the working directory."""
    monkeypatch.chdir(tmp_path)
    source = Path(__file__).parents[1] / "broken_recipes" / "02_typo_in_component.yaml"
    sound = source.read_text(encoding="utf-8").replace("transfomer", "transformer")

    def write(more: str = "", file: str = "recipe.yaml", **lines: str) -> Path:
        text = sound
        for key, value in lines.items():
            text = re.sub(rf"^{key}:.*$", lambda _, line=f"{key}: {value}": line, text, flags=re.MULTILINE)
        path = tmp_path / file
        path.write_text(text + more, encoding="utf-8")
        return path

    return write


@pytest.fixture
def refuse_image(refuse, memory):
    """As `refuse`, for the bytes of a picture: no more memory than a decoder needs to look at them."""
    from metaformer.files.picture import read_image

    for kind in ("PNG", "GIF", "WEBP", "TIFF"):  # Pillow loads its decoders when they are first used
        read_image(encode(Image.new("RGB", (16, 16)), kind))

    def check(data: bytes, says: str | None = None, mib: int = 16):
        with memory(mib):
            return refuse(lambda: read_image(data), says, DataError)

    return check


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.fixture(name="encode")
def encode_fixture():
    return encode


@pytest.fixture
def png_chunk():
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return chunk


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small run that has finished; attacks change copies of it."""
    from metaformer.train import train_command

    root = Path(__file__).parents[2]
    output = tmp_path_factory.mktemp("trained")
    encoder = "encoders.shared={use: transformer, dim: 32, depth: 1, num_heads: 2}"
    sets = ["steps=2", "batch_size=16", "controls=[]", "schedule.warmup=1", "eval_every=2", "save_every=1", encoder]
    train_command([root / "recipes/digits_frozen.yaml"], [*sets, f"output={output}", "engine={use: torch}"])
    (run,) = output.glob("digits_frozen/*")
    return run


@pytest.fixture
def refuse_yaml(tmp_path, refuse, memory):
    """`refuse_yaml(text, found, line)`: a recipe of that text has one problem, on that line, said in few words."""

    def check(text: str | bytes, found: str, line: int | None) -> None:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with memory(200):
            refusal = refuse(lambda: read_yaml(path), found, RecipeError)
        (problem,) = refusal.problems
        assert found in problem.found
        assert line is None or problem.line == line
        assert len(str(problem)) < 400

    return check
