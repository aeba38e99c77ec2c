"""The engine's settings: what clashes, what DeepSpeed knows and takes, and what offloading becomes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from metaformer.errors import Problem, RecipeError
from metaformer.recipe import Engine, Offload
from metaformer.recipe_check import DEEPSPEED_IDLE, DEEPSPEED_KEYS, offload_problems, structure_problems
from metaformer.recipe_file import check_file
from metaformer.registry import registry

BASE = """\
name: tiny
tokenizers: {image: {use: image, image_size: 16, patch_size: 8}}
encoders: {shared: {use: transformer, dim: 16, depth: 1, num_heads: 2}}
heads: {label: {use: classification, reads: image, num_classes: 10}}
tasks:
  digits:
    data: {train: {use: digits, split: train}}
    objective: {use: cross_entropy, head: label}
steps: 2
"""


def structure(engine: dict) -> list[Problem]:
    """What the check of a recipe's structure says about its engine."""
    data = {
        "tokenizers": {"left": {"use": "image"}}, "encoders": {"shared": {"use": "identity"}}, "engine": engine
    }  # fmt: skip
    return [problem for problem in structure_problems(data, registry()) if problem.path.startswith("engine")]


CLASHES = {
    "optimizer without zero": ({"offload": {"optimizer": "cpu"}}, "optimizer", "without ZeRO", "engine.zero: 1"),
    "optimizer on a disk": (
        {"zero": 2, "offload": {"optimizer": "nvme", "path": "p"}}, "optimizer", "ZeRO 2 keeps it", "engine.zero: 3",
    ),
    "parameters": ({"zero": 1, "offload": {"parameters": "cpu"}}, "parameters", "ZeRO 1 leaves", "engine.zero: 3"),
    "no path": ({"zero": 3, "offload": {"parameters": "nvme"}}, "", "needs a folder", "add `path"),
    "empty path": ({"zero": 3, "offload": {"parameters": "nvme", "path": ""}}, "path", "needs a folder", "add `path"),
    "idle path": ({"zero": 3, "offload": {"parameters": "cpu", "path": "p"}}, "path", "nothing is", "nvme"),
    "torch": ({"use": "torch", "offload": {"optimizer": "cpu"}}, "", "DeepSpeed's", "use: deepspeed"),
}  # fmt: skip


@pytest.mark.parametrize("name", CLASHES)
def test_offloading_says_what_it_needs(name):
    engine, key, found, do = CLASHES[name]
    (problem,) = structure(engine)
    assert problem.path == f"engine.offload.{key}".rstrip(".")
    assert found in problem.found
    assert do in problem.do


@pytest.mark.parametrize(
    "engine",
    [
        {"zero": 3, "compile": False, "activation_checkpointing": True},
        {"zero": 2, "compile": True, "offload": {"optimizer": "cpu"}},
        {"zero": 3, "offload": {"optimizer": "nvme", "parameters": "cpu", "path": "p"}},
        {"use": "torch", "compile": True, "offload": {"optimizer": None, "pin_memory": False}},
        {"zero": 3, "offload": {"parameters": "cpu"},
         "config": {"zero_optimization": {"overlap_comm": True, "offload_param": {"buffer_count": 6}}}},
    ],
    ids=str,
)  # fmt: skip
def test_what_fits_together_passes(engine):
    assert structure(engine) == []


def test_compiled_blocks_are_refused_under_zero_3():
    (problem,) = structure({"zero": 3, "compile": True})
    assert (problem.path, "zero: 2" in problem.do) == ("engine.compile", True)


def nested(path: str, value: object) -> dict:
    first, _, rest = path.partition(".")
    return {first: nested(rest, value) if rest else value}


@pytest.mark.parametrize("key", DEEPSPEED_KEYS)
def test_settings_with_a_word_of_their_own_are_refused(key):
    offload = {"optimizer": "cpu", "parameters": "cpu"}
    (problem,) = structure({"zero": 3, "offload": offload, "config": nested(key, {"enabled": True})})
    assert problem.path == f"engine.config.{key}"
    assert f"`{DEEPSPEED_KEYS[key]}`" in problem.do
    words = DEEPSPEED_KEYS[key].removeprefix("engine.offload.").removeprefix("engine.").split(".")
    from metaformer.recipe import Recipe

    assert words[0] in {**Offload.model_fields, **Engine.model_fields, **Recipe.model_fields}


def test_settings_that_would_do_nothing_are_refused():
    found = structure({"config": dict.fromkeys(DEEPSPEED_IDLE, True)})
    assert {problem.path for problem in found} == {f"engine.config.{key}" for key in DEEPSPEED_IDLE}


@pytest.mark.parametrize("folder", ["/somewhere", "../somewhere"])
def test_a_stranger_does_not_choose_where_the_disk_is_written_to(folder):
    (problem,) = offload_problems({"engine": {"offload": {"path": folder}}})
    assert problem.do.endswith(f"--set engine.offload.path={folder}")
    assert offload_problems({"engine": {"offload": {"path": "below"}}}) == []


def test_further_settings_go_with_offloading_only():
    (problem,) = structure({"zero": 3, "config": {"zero_optimization": {"offload_param": {"buffer_count": 6}}}})
    assert "`engine.offload.parameters`" in problem.do
    (problem,) = structure({"config": {"zero_optimization": True}})
    assert problem.path == "engine.config.zero_optimization"


# What follows asks DeepSpeed itself.


def asked(config: dict, zero: int = 3) -> list[Problem]:
    from metaformer.engine.settings import settings_problems

    return settings_problems(Engine(zero=zero, config=config))


UNKNOWN = {
    "zero_optimisation": ({"zero_optimisation": {}}, "would ignore it", "did you mean 'zero_optimization'?"),
    "no_such_thing": ({"no_such_thing": 1}, "would ignore it", "known: "),
    "zero_optimization.reduce_bucket_sise": (
        {"zero_optimization": {"reduce_bucket_sise": 1}}, "no key", "did you mean 'reduce_bucket_size'?",
    ),
    "zero_optimization.reduce_bucket_size": (
        {"zero_optimization": {"reduce_bucket_size": -3}}, "greater than 0, got -3", "",
    ),
    "zero_optimization.overlap_comm": (
        {"zero_optimization": {"overlap_comm": "sure"}}, "expected true or false", "write true or false",
    ),
    "prescale_gradients": ({"prescale_gradients": 3}, "expected true or false, got 3", "write true or false"),
    "gradient_predivide_factor": ({"gradient_predivide_factor": "a"}, "expected a number", "write a number"),
    "communication_data_type": ({"communication_data_type": "fp7"}, "Invalid", "correct the value"),
    "wandb.teem": ({"wandb": {"teem": "x"}}, "no key 'teem'", "did you mean 'team'?"),
    "sparse_attention": ({"sparse_attention": {}}, "has been removed", "remove the key"),
}  # fmt: skip


@pytest.mark.parametrize("path", UNKNOWN)
def test_deepspeed_is_asked_for_its_keys_and_values(path):
    config, found, do = UNKNOWN[path]
    (problem,) = asked(config)
    assert problem.path == f"engine.config.{path}"
    assert found in problem.found
    assert do in problem.do


def test_what_deepspeed_knows_passes():
    zero = {"overlap_comm": True, "stage3_param_persistence_threshold": 0, "reduce_bucket_size": 1000}
    config = {"zero_optimization": zero, "communication_data_type": "bf16", "prescale_gradients": False}
    assert asked(config) == []
    assert asked({"flops_profiler": {"enabled": False}, "gradient_predivide_factor": 2}, zero=1) == []


def test_every_key_that_is_refused_is_one_that_deepspeed_reads():
    """Otherwise it would be refused as unknown in any case; two it reads only where it can."""
    from metaformer.engine.settings import deepspeed_keys, load_deepspeed

    load_deepspeed()
    tops = {key.partition(".")[0] for key in [*DEEPSPEED_KEYS, *DEEPSPEED_IDLE]}
    assert tops - deepspeed_keys().keys() <= {"sequence_parallel_size"}


def test_offloading_becomes_deepspeeds_words():
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    from metaformer.engine.settings import offload_settings, zero_settings

    assert offload_settings(Offload()) == {}
    assert offload_settings(Offload(optimizer="cpu")) == {"offload_optimizer": {"device": "cpu", "pin_memory": False}}
    both = Offload(optimizer="nvme", parameters="cpu", path="disk", pin_memory=True)
    assert offload_settings(both) == {
        "offload_optimizer": {"device": "nvme", "pin_memory": True, "nvme_path": "disk"},
        "offload_param": {"device": "cpu", "pin_memory": True},
    }
    config = {"zero_optimization": {"overlap_comm": False, "offload_param": {"buffer_count": 6}}}
    settings = zero_settings(Engine(zero=3, offload=both, config=config))
    assert settings["offload_param"] == {"device": "cpu", "pin_memory": True, "buffer_count": 6}
    assert (settings["stage"], settings["overlap_comm"]) == (3, False)
    DeepSpeedZeroConfig(**settings)


def test_faults_of_the_engine_come_with_all_others_and_their_lines(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        BASE.replace("num_classes", "num_clases") + "engine:\n  zero: 2\n  config: {prescale_gradents: 1}\n"
    )
    with pytest.raises(RecipeError) as caught:
        check_file(path)
    lines = {problem.path: problem.line for problem in caught.value.problems}
    assert lines["engine.config.prescale_gradents"] == 12
    assert any("num_clases" in path for path in lines)


def test_a_missing_compiler_is_a_fault_of_the_recipe(tmp_path, monkeypatch):
    path = tmp_path / "recipe.yaml"
    path.write_text(BASE + "engine: {use: torch, compile: true}\n")
    check_file(path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RecipeError, match=r"engine\.compile: it needs a C\+\+ compiler, and there is no") as caught:
        check_file(path)
    assert [(problem.path, problem.line) for problem in caught.value.problems] == [("engine.compile", 10)]


def test_a_recipe_without_further_settings_is_checked_without_deepspeed(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(BASE + "engine: {zero: 1}\n")
    code = f"import sys; from metaformer.recipe_file import check_file; check_file({str(path)!r})"
    code += "; print('deepspeed' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == "False", done.stderr
