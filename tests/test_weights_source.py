"""Hub sources: from the cache without a network, over the wire from a hub of our own, and quickly to an error."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from metaformer.encoders.transformer import TransformerEncoder
from metaformer.errors import WeightsError
from metaformer.weights import hub
from metaformer.weights.files import file_digest
from metaformer.weights.load import load_into
from metaformer.weights.receipt import Receipt
from metaformer.weights.source import Facts, open_source
from metaformer.weights.uri import open_weights

constants = pytest.importorskip("huggingface_hub.constants")
COMMIT = "0123456789" * 4


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and an endpoint at which nothing listens."""
    torch.manual_seed(0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    point_to(endpoint, monkeypatch)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return folder


def point_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


def snapshot(cache: Path, repo: str, revision: str = "main") -> Path:
    """The folder of a repository's files in the cache, as the hub's client lays it out."""
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / revision).write_text(COMMIT)
    folder = root / "snapshots" / COMMIT
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def clip_vision(dim: int, depth: int) -> dict[str, Tensor]:
    """A small vision tower as open_clip names it."""
    shapes: dict[str, tuple[int, ...]] = {"ln_pre.weight": (dim,), "ln_pre.bias": (dim,), "proj": (dim, 4)}
    for i in range(depth):
        block = f"transformer.resblocks.{i}."
        for name, rows, columns in (
            ("attn.in_proj_", 3 * dim, dim),
            ("attn.out_proj.", dim, dim),
            ("mlp.c_fc.", 4 * dim, dim),
            ("mlp.c_proj.", dim, 4 * dim),
        ):
            shapes |= {f"{block}{name}weight": (rows, columns), f"{block}{name}bias": (rows,)}
        for name in ("ln_1", "ln_2"):
            shapes |= {f"{block}{name}.weight": (dim,), f"{block}{name}.bias": (dim,)}
    return {f"visual.{key}": torch.randn(shape) for key, shape in shapes.items()}


def ours(dim: int, depth: int, heads: int, **knobs: object) -> TransformerEncoder:
    return TransformerEncoder(dim=dim, depth=depth, num_heads=heads, **knobs)  # type: ignore[arg-type]


def load(module: TransformerEncoder, uri: str) -> Receipt:
    return load_into(module, uri, name="encoders.shared")


# From the cache


def test_timm_from_the_cache(cache: Path) -> None:
    import timm

    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    model = timm.create_model(name, pretrained=False)
    path = snapshot(cache, f"timm/{name}") / "model.safetensors"
    save_file(model.state_dict(), path)
    encoder = ours(192, 12, 3, norm_out=True)
    receipt = load(encoder, f"timm:{name}")
    assert receipt.layout == "timm_vit"
    assert receipt.digest == file_digest(path)
    assert torch.equal(encoder.blocks[11].attn.qkv.weight, model.blocks[11].attn.qkv.weight)
    assert torch.equal(encoder.norm_out.weight, model.norm.weight)
    assert "norm_eps: 1.0e-06 would match" in str(receipt)
    with pytest.raises(WeightsError, match=r"encoders\.shared\.num_heads: 3"):
        load(ours(192, 12, 6, norm_out=True), f"timm:{name}")


def test_openclip_from_the_cache(cache: Path) -> None:
    folder = snapshot(cache, "laion/CLIP-ViT-B-16-laion2B-s34B-b88K")
    state = clip_vision(768, 1) | {"logit_scale": torch.tensor(1.0)}
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    uri = "openclip:ViT-B-16/laion2b_s34b_b88k"
    encoder = ours(768, 1, 12, norm_in=True)
    receipt = load(encoder, uri)
    assert receipt.layout == "open_clip"
    assert torch.equal(encoder.norm_in.bias, state["visual.ln_pre.bias"])
    with pytest.raises(WeightsError, match=r"encoders\.shared\.activation: gelu"):
        load(ours(768, 1, 12, norm_in=True, activation="quick_gelu"), uri)


def test_openai_weights_want_their_activation(cache: Path) -> None:
    folder = snapshot(cache, "timm/vit_base_patch32_clip_224.openai")
    save_file(clip_vision(768, 1), folder / "open_clip_model.safetensors")
    uri = "openclip:ViT-B-32/openai"
    assert load(ours(768, 1, 12, norm_in=True, activation="quick_gelu"), uri).missing == ()
    with pytest.raises(WeightsError, match=r"encoders\.shared\.activation: quick_gelu"):
        load(ours(768, 1, 12, norm_in=True), uri)


@pytest.mark.parametrize("sharded", [False, True])
def test_hf_from_the_cache_with_what_its_config_says(cache: Path, sharded: bool) -> None:
    folder = snapshot(cache, "owner/repo", "v1")
    state = clip_vision(16, 2)
    if sharded:
        keys = sorted(state)
        halves = {"model-1.safetensors": keys[::2], "model-2.safetensors": keys[1::2]}
        for file, some in halves.items():
            save_file({key: state[key] for key in some}, folder / file)
        index = {"weight_map": {key: file for file, some in halves.items() for key in some}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        save_file(state, folder / "model.safetensors")
    config = {"vision_config": {"num_attention_heads": 4, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}}
    (folder / "config.json").write_text(json.dumps(config))
    source = open_source("hf:owner/repo@v1#visual")
    assert source is not None
    assert set(source.tensors) == {key.removeprefix("visual.") for key in state}
    assert source.facts == Facts(4, "quick_gelu", 1e-5)
    assert len(source.digests()) == (2 if sharded else 1)


def test_an_index_that_points_out_of_the_repository_is_refused(cache: Path) -> None:
    folder = snapshot(cache, "owner/repo")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../../secret"}}')
    with pytest.raises(WeightsError, match="outside the repository"):
        open_weights("hf:owner/repo")


def test_a_malicious_file_in_the_cache_is_not_run_by_timm_either(cache: Path, tmp_path: Path) -> None:
    mark = tmp_path / "owned"
    folder = snapshot(cache, "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    torch.save({"blocks.0.norm1.weight": partial(Path.touch, mark)}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="was not run"):
        open_weights("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    assert not mark.exists()


# Without a network


URIS = [
    "timm:vit_base_patch16_clip_224.laion2b",
    "hf:owner/repo",
    "openclip:ViT-B-16/laion2b_s34b_b88k",
]


@pytest.mark.parametrize("uri", URIS)
def test_offline_it_says_what_is_missing_where_it_looked_and_what_to_do(cache: Path, uri: str) -> None:
    with pytest.raises(WeightsError) as caught:
        open_weights(uri)
    error = caught.value
    assert uri in error.asked
    assert str(cache) in error.found
    assert "cannot be reached" in error.found
    assert "--set encoders.shared.weights=file:" in error.do
    assert "hf download" in error.do
    assert error.exit_code == 7


def test_a_refused_connection_is_answered_in_seconds() -> None:
    start = time.perf_counter()
    with pytest.raises(WeightsError, match="cannot be reached"):
        open_weights("hf:owner/repo")
    assert time.perf_counter() - start < 3


def test_a_silent_hub_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "REACH_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        point_to(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        start = time.perf_counter()
        with pytest.raises(WeightsError, match="timed out"):
            open_weights("hf:owner/repo")
        assert time.perf_counter() - start < 3


def test_the_offline_switch_is_honoured_without_a_connection(tmp_path: Path) -> None:
    """In a process of its own, as the hub's client reads the switch when it is imported."""
    code = (
        "import socket, sys\n"
        "def refuse(*args): raise SystemExit('a connection was tried')\n"
        "socket.socket.connect = refuse\n"
        "from metaformer.weights.uri import open_weights\n"
        "from metaformer.errors import WeightsError\n"
        "try: open_weights('hf:owner/repo')\n"
        "except WeightsError as error: print(error)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "HF_HUB_OFFLINE is set" in done.stdout, done.stderr
    assert str(tmp_path) in done.stdout


@pytest.mark.parametrize(
    ("uri", "hint"),
    [
        ("timm:vit_base_patch16_clip_224.laion2c", "vit_base_patch16_clip_224.laion2b"),
        ("timm:vit_bass_patch16_224", "did you mean"),
        ("openclip:ViT-B-17/openai", "ViT-B-16"),
        ("openclip:ViT-B-16/laion2b", "laion2b_s34b_b88k"),
        ("hf:a/b/c", "OWNER/NAME"),
    ],
)
def test_names_nobody_knows_are_told_from_a_missing_network(uri: str, hint: str) -> None:
    with pytest.raises(WeightsError, match=hint) as caught:
        open_weights(uri)
    assert "cannot be reached" not in str(caught.value)


# Over the wire


class TinyHub(BaseHTTPRequestHandler):
    """Serves `owner/repo` at `main` from a dictionary, with the headers the hub's client needs."""

    files: dict[str, bytes] = {}

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        repo, _, name = self.path.partition("/resolve/main/")
        known = repo == "/owner/repo"
        content = self.files.get(name) if known else None
        if self.path == "/":
            content = b"hub"
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        else:
            self.send_header("ETag", f'"{len(content)}-{name}"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if body and content is not None:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test's output is not a server log."""


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    files: dict[str, bytes] = {}
    handler = type("Handler", (TinyHub,), {"files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    point_to(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    yield files
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_goes_to_the_cache_and_the_next_one_needs_no_hub(
    served: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = clip_vision(16, 1)
    torch.save(state, tmp_path / "weights.bin")
    served["pytorch_model.bin"] = (tmp_path / "weights.bin").read_bytes()
    found = open_weights("hf:owner/repo")
    assert found is not None
    assert all(torch.equal(found[key], state[key]) for key in state)
    point_to("http://127.0.0.1:9", monkeypatch)
    assert set(open_weights("hf:owner/repo") or {}) == set(state)


def test_an_absent_repository_and_one_without_weights_are_told_apart(served: dict[str, bytes]) -> None:
    served["README.md"] = b"nothing here"
    with pytest.raises(WeightsError, match=r"owner/repo has none of model\.safetensors"):
        open_weights("hf:owner/repo")
    with pytest.raises(WeightsError, match="no repository owner/other"):
        open_weights("hf:owner/other")
