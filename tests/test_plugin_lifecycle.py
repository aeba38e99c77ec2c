"""A stranger's plugin: built as a wheel outside the repository, installed by pip, used by a recipe, uninstalled.

Everything happens in an environment of its own that sees the packages of this one, so that what pip does is real
and touches nothing here. Broken plugins are installed beside it and must change nothing for it.
"""

from __future__ import annotations

import json
import random

import pytest

from tests.stranger import Environment

PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "{version}"
dependencies = ["metaformer"]

[project.entry-points.metaformer]
{module} = "{module}"

[tool.hatch.build.targets.wheel]
packages = ["{module}"]
"""

HOOKS = """\
from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def register_tokenizers():
    return [Component("smell", "metaformer_plugin_smell.parts:SmellTokenizer", "Odour sensor arrays.")]


@hookimpl
def register_heads():
    return [Component("nose", "metaformer_plugin_smell.parts:NoseHead", "One class per smell.")]


@hookimpl
def register_metrics():
    return [Component("hits", "metaformer_plugin_smell.parts:Hits", "Number of right answers.")]
"""

PARTS = """\
import torch
from torch import nn

from metaformer.base import Head, Metric, Preprocess, Tokenizer, masked_mean
from metaformer.types import TokenBatch


class SmellPreprocess(Preprocess):
    def __call__(self, value, train):
        values = torch.as_tensor(value, dtype=torch.float32)
        return {"values": values, "mask": torch.ones(len(values), dtype=torch.bool)}

    def blank(self):
        return {"values": torch.zeros(1), "mask": torch.ones(1, dtype=torch.bool)}


class SmellTokenizer(Tokenizer):
    def __init__(self, dim: int, *, sensors: int) -> None:
        super().__init__()
        self.preprocess = SmellPreprocess()
        self.scale = nn.Linear(1, dim)
        self.place = nn.Parameter(0.02 * torch.randn(sensors, dim))

    def forward(self, raw):
        x = self.scale(raw["values"].unsqueeze(-1)) + self.place[: raw["values"].shape[1]]
        return TokenBatch(x, raw["mask"], self.modality)


class NoseHead(Head):
    predicts = "class"

    def __init__(self, dim: int, *, num_smells: int) -> None:
        super().__init__()
        self.size = num_smells
        self.linear = nn.Linear(dim, num_smells)

    def forward(self, tokens):
        return self.linear(masked_mean(tokens.x, tokens.mask))


class Hits(Metric):
    higher_is_better = True

    def __init__(self) -> None:
        self.hits = 0

    def update(self, prediction, target) -> None:
        self.hits += int((prediction.argmax(dim=-1) == target).sum())

    def compute(self) -> float:
        return float(self.hits)
"""

RECIPE = """\
name: smells
requires: [metaformer-plugin-smell]
tokenizers:
  smell: {use: smell, sensors: 4}
encoders:
  shared: {use: transformer, dim: 16, depth: 1, num_heads: 2}
heads:
  kind: {use: nose, reads: smell, num_smells: 2}
tasks:
  smells:
    data: {train: {use: manifest, path: smells.jsonl}, valid: {use: manifest, path: smells.jsonl}}
    objective: {use: cross_entropy, head: kind}
    metrics: [hits, accuracy]
optimizer: {lr: 1e-3}
steps: 2
batch_size: 4
engine: {use: torch}
"""

HEAD = 'from metaformer import Component, hookimpl\nMETAFORMER_API = "1.0"\n'
BROKEN = {
    "import-error": (HEAD + "from metaformer import no_such_name\n", "ImportError"),
    "syntax-error": (HEAD + "def f(:\n", "SyntaxError"),
    "os-error": (HEAD + "raise OSError('libsmell.so: cannot open shared object file')\n", "OSError: libsmell.so"),
    "system-exit": (HEAD + "import sys\nsys.exit(1)\n", "SystemExit: 1"),
    "missing-dependency": (HEAD + "import h1_not_installed\n", "needs the package 'h1_not_installed'"),
    "wrong-signature": (HEAD + "@hookimpl\ndef evaluated(run, score): pass\n", "'evaluated' has the wrong signature"),
    "unknown-hook": (HEAD + "@hookimpl\ndef register_head(): return []\n", "did you mean 'register_heads'?"),
    "api": (HEAD.replace("1.0", "2.0"), "made for plugin API 2.0"),
}


def install(environment, name, version, hooks, parts=None):
    """Write a plugin's project outside the repository, and install it."""
    module, project = name.replace("-", "_"), environment.folder / "source" / name
    (project / module).mkdir(parents=True)
    (project / "pyproject.toml").write_text(PROJECT.format(name=name, module=module, version=version))
    (project / module / "__init__.py").write_text(hooks)
    if parts is not None:
        (project / module / "parts.py").write_text(parts)
    environment.install(project)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    environment = Environment(tmp_path_factory.mktemp("stranger"))
    rng = random.Random(0)
    rows = [{"smell": [rng.random() + i % 2 for _ in range(4)], "kind": ["rose", "tar"][i % 2]} for i in range(16)]
    (environment.work / "smells.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (environment.work / "smells.yaml").write_text(RECIPE)
    return environment


def test_before_it_is_installed_the_recipe_names_what_to_install(environment):
    done = environment.metaformer("train", "smells.yaml", code=2)
    assert "requires.0: the distribution 'metaformer-plugin-smell' is not installed" in done.stderr
    assert "tokenizers.smell.use: no installed plugin offers a tokenizer 'smell'" in done.stderr
    assert "pip install metaformer-plugin-smell" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def smelling(environment):
    install(environment, "metaformer-plugin-smell", "0.4", HOOKS, PARTS)
    return environment


def mine(record):
    found = [c for c in record["components"] if c["distribution"] == "metaformer-plugin-smell"]
    return {(c["kind"], c["name"], c["version"]) for c in found}


ITS_COMPONENTS = {("tokenizer", "smell", "0.4"), ("head", "nose", "0.4"), ("metric", "hits", "0.4")}


def test_installed_it_adds_a_modality_a_head_and_a_metric(smelling):
    assert mine(smelling.plugins()) == ITS_COMPONENTS


def train(environment):
    """Train; what the run wrote, without times."""
    environment.metaformer("train", "smells.yaml")
    run = max((environment.work / "runs" / "smells").iterdir())
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(smelling):
    return train(smelling)


def test_it_trains_by_recipe(trained):
    last = trained[-1]
    assert last["step"] == 2
    assert 0 <= next(value for name, value in flat(last) if name.endswith("hits")) <= 16


def flat(record, prefix=""):
    for name, value in record.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def exact(records):
    """Losses and metrics, which must not change by a bit."""
    return [[(name, value) for name, value in flat(r) if "loss" in name or "smells" in name] for r in records]


def test_broken_ones_beside_it_change_nothing_else(smelling, trained):
    before = smelling.plugins()
    for name, (code, _) in BROKEN.items():
        install(smelling, f"h1-broken-{name}", "0.9", code)
    after = smelling.plugins()
    assert after["components"] == before["components"]
    assert after["plugins"] == before["plugins"]
    found = {other["distribution"]: other for other in after["broken"]}
    for name, (_, reason) in BROKEN.items():
        other = found[f"h1-broken-{name}"]
        assert other["version"] == "0.9"
        assert reason in other["reason"]
        assert f"METAFORMER_DISABLE_PLUGINS=h1-broken-{name}" in other["do"]
    assert exact(train(smelling)) == exact(trained)
    assert any(exact(trained))
    recipe = RECIPE.replace("requires: [", "requires: [h1-broken-os-error, ")
    (smelling.work / "needs_broken.yaml").write_text(recipe)
    done = smelling.metaformer("train", "needs_broken.yaml", code=4)
    assert "h1-broken-os-error 0.9 is broken" in done.stderr
    assert "Traceback" not in done.stderr
    smelling.uninstall("h1-broken-os-error")
    assert "h1-broken-os-error" not in {other["distribution"] for other in smelling.plugins()["broken"]}


def test_uninstalled_it_is_gone_and_the_recipe_says_so(smelling, trained):
    assert mine(smelling.plugins()) == ITS_COMPONENTS
    smelling.uninstall("metaformer-plugin-smell")
    assert mine(smelling.plugins()) == set()
    for command in (["recipe", "check"], ["train"]):
        done = smelling.metaformer(*command, "smells.yaml", code=2)
        assert "the distribution 'metaformer-plugin-smell' is not installed" in done.stderr
        assert "head 'nose'" in done.stderr
        assert "metric 'hits'" in done.stderr
        assert "Traceback" not in done.stderr
