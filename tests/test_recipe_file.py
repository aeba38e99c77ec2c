"""Recipe files: what is read, what `--set` does, and what is said about everything that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from metaformer.errors import PluginError, Problem, RecipeError
from metaformer.recipe import MetricEntry, Recipe
from metaformer.recipe_file import ELSEWHERE, locate, metric_entry, read_recipe, resolved

# Components of the core only, so that nothing here depends on which plugins are installed.
BASE = """\
name: tiny
tokenizers:
  left: {use: TOKENIZER}
  right: {use: TOKENIZER}
encoders:
  shared: {use: transformer, dim: 16, depth: 1, num_heads: 2}
heads:
  label: {use: classification, reads: left, num_classes: 3}
tasks:
  main:
    data:
      train: {use: manifest, path: train.csv}
      valid: {use: manifest, path: valid.csv}
    objective: {use: cross_entropy, head: label}
    metrics: [accuracy@1, {use: f1, head: label}]
steps: 4
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a recipe; `TOKENIZER` stands for one that a plugin made here registers."""
    import metaformer.recipe_file
    from metaformer.registry import Registry

    module = tmp_path / "h1_recipe_plugin.py"
    module.write_text(
        "from metaformer import Component, hookimpl\n"
        'METAFORMER_API = "1.0"\n'
        "@hookimpl\n"
        "def register_tokenizers(): return [Component('h1vector', 'h1_recipe_plugin:None_', '')]\n"
        "@hookimpl\n"
        "def register_bridges(): return [Component('h1fusion', 'h1_recipe_plugin:None_', '')]\n"
    )
    info = tmp_path / "h1_recipe_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: h1-recipe-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[metaformer]\nh1 = h1_recipe_plugin\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = Registry.discover({})
    monkeypatch.setattr(metaformer.recipe_file, "registry", lambda: found)

    def write(*changes, add=""):
        text = BASE + add
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "recipe.yaml"
        path.write_text(text.replace("TOKENIZER", "h1vector"))
        return path

    return write


def problems(path, *sets):
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, sets)
    return caught.value.problems


def the_problem(path, *sets):
    (problem,) = problems(path, *sets)
    return problem


def test_a_sound_recipe_is_read(write):
    file = read_recipe(write())
    assert isinstance(file.recipe, Recipe)
    assert (file.recipe.steps, file.recipe.heads["label"].knobs) == (4, {"num_classes": 3})
    assert file.text.startswith("name: tiny")
    assert file.line("heads.label.num_classes") == 8
    assert file.line("heads.label.absent") == 8
    assert file.line("optimizer.lr") is None


def test_a_resolved_recipe_reads_back_equal_and_resolves_to_itself(write, tmp_path):
    file = read_recipe(write(add='trainable: ["heads.*"]\npasses: {right: {encoder: null}}\n'), ["optimizer.eps=1e-12"])
    path = tmp_path / "resolved.yaml"
    path.write_text(resolved(file))
    again = read_recipe(path)
    assert again.recipe == file.recipe
    assert again.recipe.optimizer.eps == 1e-12
    assert again.recipe.passes["right"].encoder is None
    assert resolved(again).splitlines()[1:] == resolved(file).splitlines()[1:]


def test_set_changes_any_value_and_makes_sections_of_defaults(write):
    sets = [
        "optimizer.lr=1e-4",
        "engine.config.prescale_gradients=true",
        "tasks.main.metrics.0=f1",
        "tasks.main.data.train.path=other.csv",
        "heads.other={use: regression, reads: left}",
        "schedule.decay=cosine",
        "schedule.decay=linear",
        "trainable=[tokenizers.*, heads.*]",
        "best={metric: main/f1}",
        "best.mode=max",
        "eval_every=",
    ]
    recipe = read_recipe(write(), sets).recipe
    assert recipe.optimizer.lr == 1e-4
    assert recipe.engine.config == {"prescale_gradients": True}
    assert recipe.tasks["main"].metrics[0] == "f1"
    assert recipe.tasks["main"].data.train.knobs == {"path": "other.csv"}
    assert recipe.heads["other"].use == "regression"
    assert recipe.schedule.decay == "linear"
    assert recipe.trainable == ("tokenizers.*", "heads.*")
    assert (recipe.best.metric, recipe.best.mode, recipe.eval_every) == ("main/f1", "max", None)


@pytest.mark.parametrize(
    ("given", "path", "found", "do"),
    [
        ("steps", "", "not of the form", "--set optimizer.lr=1e-4"),
        ("=3", "", "not of the form", ""),
        ("a..b=3", "", "not of the form", ""),
        ("optimzer.lr=3", "optimzer", "the recipe has no 'optimzer'", "did you mean 'optimizer'?"),
        ("heads.lable.num_classes=3", "heads.lable", "heads has no 'lable'", "did you mean 'label'?"),
        ("tasks.main.metrics.7=f1", "tasks.main.metrics.7", "a list of 2", "from 0 to 1"),
        ("tasks.main.metrics.x=f1", "tasks.main.metrics.x", "a list of 2", "from 0 to 1"),
        ("steps.x=3", "steps.x", "a single value", "shorten"),
        ("steps=!!int 3", "steps", "tag", "remove the tag"),
        ("stepz=3", "stepz", "there is no key 'stepz'", "did you mean 'steps'?"),
        ("steps=many", "steps", "(from --set steps=many)", "write a whole number"),
        ("optimizer.lr=-1", "optimizer.lr", "must be greater than 0, got -1", ""),
    ],
)
def test_a_wrong_set_says_so_without_a_line(write, given, path, found, do):
    problem = the_problem(write(), given)
    assert (problem.path, problem.line) == (path, None)
    assert found in problem.found
    assert do in problem.do


def test_a_set_on_one_place_leaves_its_alias_alone(write):
    path = write(("{use: manifest, path: train.csv}", "&d {use: manifest, path: train.csv}"))
    path.write_text(path.read_text().replace("{use: manifest, path: valid.csv}", "*d"))
    data = read_recipe(path, ["tasks.main.data.valid.path=v.csv"]).recipe.tasks["main"].data
    assert (data.train.knobs["path"], data.valid.knobs["path"]) == ("train.csv", "v.csv")


STRUCTURE = {
    "requires a version": ((), "requires: ['numpy>=1']\n", "requires.0", 17, "not the name", "write the name"),
    "unknown stream in a head": ((("reads: left", "reads: lift"),), "", "heads.label.reads", 8, "'lift'", "'left'"),
    "unknown stream in a pass": (
        (), "passes:\n  both: {reads: [left, rigth]}\n", "passes.both.reads.1", 18, "'rigth'", "'right'",
    ),
    "pass without a stream": ((), "passes: {lfet: {}}\n", "passes.lfet", 17, "no tokenizer", "did you mean 'left'?"),
    "unknown encoder": (
        (), "passes: {left: {encoder: share}}\n", "passes.left.encoder", 17, "'share'", "did you mean 'shared'?",
    ),
    "no shared encoder": (
        (("shared:", "vision:"),), "passes: {left: {encoder: vision}}\n", "encoders", 5,
        "no encoder 'shared', which 'right' would pass through", "passes: {right: {encoder: NAME or null}}",
    ),
    "unknown stream in a bridge": (
        (), "bridges:\n  f: {use: h1fusion, reads: {a: left, b: lef}}\n", "bridges.f.reads.b", 18, "'lef'", "'left'",
    ),
    "bridges out of order": (
        (), "bridges:\n  f: {use: h1fusion, reads: {a: g}}\n  g: {use: h1fusion, reads: {a: left}}\n",
        "bridges.f.reads.a", 18, "further down", "move that one up",
    ),
    "bridge named like a stream": (
        (), "bridges:\n  left: {use: h1fusion, reads: {a: right}}\n", "bridges.left", 18, "already is a stream", "own",
    ),
    "unknown head": ((("head: label}\n    m", "head: lable}\n    m"),), "", "tasks.main.objective.head", 14,
                     "no head 'lable'", "did you mean 'label'?"),
    "unknown head of a metric": ((("f1, head: label", "f1, head: lable"),), "", "tasks.main.metrics.1.head", 15,
                                 "no head 'lable'", "did you mean 'label'?"),
    "unknown metric": ((("accuracy@1", "acuracy@1"),), "", "tasks.main.metrics.0", 15, "'acuracy'", "'accuracy'"),
    "unknown data set": ((("manifest, path: v", "manifst, path: v"),), "", "tasks.main.data.valid.use", 13,
                         "'manifst'", "'manifest'"),
    "batch": ((), "batch_size: 10\nengine: {micro_batch: 2, accumulate: 3}\n", "batch_size", 17,
              "10 is not a multiple of engine.micro_batch x engine.accumulate = 6", "write 6"),
    "small batch": ((), "batch_size: 4\nengine: {micro_batch: 8}\n", "batch_size", 17, "multiple", "write 8"),
    "config batch": ((), "engine:\n  config: {train_batch_size: 4}\n", "engine.config.train_batch_size", 18,
                     "sets this itself", "`batch_size`"),
    "config optimizer": ((), "engine: {config: {optimizer: {}}}\n", "engine.config.optimizer", 17,
                         "sets this itself", "`optimizer`"),
    "config precision": ((), "engine: {config: {fp16: {enabled: true}}}\n", "engine.config.fp16", 17,
                         "sets this itself", "`engine.precision`"),
    "config stage": ((), "engine: {config: {zero_optimization: {stage: 2}}}\n",
                     "engine.config.zero_optimization.stage", 17, "sets this itself", "`engine.zero`"),
    "torch engine": ((), "engine: {use: torch, zero: 2}\n", "engine.zero", 17, "no such setting", "deepspeed"),
    "best": ((), "best: {metric: main/acuracy@1}\n", "best.metric", 17, "no metric", "did you mean 'main/accuracy@1'?"),
    "best without data": ((("      valid: {use: manifest, path: valid.csv}\n", ""),),
                          "best: {metric: main/f1/label}\n", "best.metric", 16, "no valid data", "data.valid"),
    "control of a control": ((), "control: random\ncontrols: [none]\n", "controls", 18, "control itself", "remove"),
    "same control": ((), "controls: [none, none]\n", "controls", 17, "named twice", "once"),
}  # fmt: skip


@pytest.mark.parametrize("name", STRUCTURE)
def test_structure_is_checked_with_line_and_advice(write, name):
    changes, add, path, line, found, do = STRUCTURE[name]
    problem = the_problem(write(*changes, add=add))
    assert (problem.path, problem.line) == (path, line)
    assert found in problem.found
    assert do in problem.do


def test_sound_structures_pass(write):
    add = "engine: {micro_batch: 2, config: {zero_optimization: {overlap_comm: true}, bf16: {enabled: false}}}\n"
    add += "batch_size: 8\nbest: {metric: main/f1/label}\ncontrols: [none, random]\n"
    add += "bridges:\n  f: {use: h1fusion, reads: {a: left}}\n  g: {use: h1fusion, reads: {a: f, b: both}}\n"
    add += "passes: {both: {reads: [left, right]}}\n"
    assert read_recipe(write(add=add)).recipe.batch_size == 8
    nothing_shared = write(("shared:", "vision:"), add="passes: {left: {encoder: vision}, right: {encoder: null}}\n")
    assert list(read_recipe(nothing_shared).recipe.encoders) == ["vision"]


@pytest.mark.parametrize("key", ["learning_rate", "epochs", "per_device_train_batch_size", "gradient_clipping", "loss"])
def test_names_of_other_tools_are_translated(write, key):
    problem = the_problem(write(add=f"{key}: 1\n"))
    assert problem.path == key
    assert ELSEWHERE[key] in problem.do


def test_every_translation_leads_somewhere():
    from metaformer.faults import known_keys

    for place in ELSEWHERE.values():
        *parents, last = place.split(".")
        assert last in {*known_keys(Recipe, parents), *known_keys(Recipe, ["tasks", "x", "data"])}, place


def test_an_entry_without_use_is_told_what_was_meant(write):
    problem = the_problem(write(("use: classification", "type: classification")))
    assert problem.path == "heads.label.use"
    assert "`use: classification`" in problem.do


def test_wrong_shapes_hide_no_other_fault(write):
    path = write(("steps: 4\n", ""), ("reads: left", "reads: lift"), ("f1, head: label", "f2, head: label"))
    found = {problem.path for problem in problems(path, "optimizer.lr=fast")}
    assert found == {"steps", "heads.label.reads", "tasks.main.metrics.1.use", "optimizer.lr"}


def test_a_section_of_the_wrong_kind_is_reported_and_survived(write):
    for section in ("heads", "encoders", "passes", "bridges", "tasks", "engine", "best", "requires", "controls"):
        found = problems(write(), f"{section}=3")
        assert section in {problem.path for problem in found}, section


def test_a_broken_plugin_alone_ends_in_the_exit_code_of_plugins(write, tmp_path, monkeypatch):
    info = tmp_path / "h1_ill-0.4.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: h1-ill\nVersion: 0.4\n")
    (info / "entry_points.txt").write_text("[metaformer]\nill = h1_no_such_module\n")
    import metaformer.recipe_file
    from metaformer.registry import Registry

    found = Registry.discover({})
    monkeypatch.setattr(metaformer.recipe_file, "registry", lambda: found)
    with pytest.raises(RecipeError, match=r"h1-ill 0\.4 is broken") as caught:
        read_recipe(write(add="requires: [h1-ill]\n"))
    assert caught.value.exit_code == PluginError.exit_code
    with pytest.raises(RecipeError) as caught:
        read_recipe(write(add="requires: [h1-ill]\nepochs: 3\n"))
    assert caught.value.exit_code == 2


def test_metrics_may_be_words():
    assert metric_entry("accuracy@5") == MetricEntry(use="accuracy", top_k=5)
    assert metric_entry("a-b:accuracy") == MetricEntry(use="a-b:accuracy")
    entry = MetricEntry(use="f1", head="label")
    assert metric_entry(entry) is entry


def test_paths_are_looked_up_here_then_beside_the_recipe(tmp_path, monkeypatch):
    here, beside = tmp_path / "here", tmp_path / "beside"
    for folder in (here, beside):
        folder.mkdir()
    monkeypatch.chdir(here)
    recipe = beside / "recipe.yaml"
    recipe.touch()
    (beside / "data").touch()
    assert locate("data", recipe) == locate("data", beside) == beside / "data"
    (here / "data").touch()
    assert locate("data", recipe) == Path("data")
    assert locate("nowhere", recipe) == Path("nowhere")
    assert locate(beside / "data", here) == beside / "data"


def test_errors_come_in_the_order_of_the_file_and_once(write):
    file = read_recipe(write())
    error = file.error([Problem("steps", "b"), Problem("name", "a"), Problem("steps", "b"), Problem("", "whole")])
    assert [(p.line, p.found) for p in error.problems] == [(1, "a"), (16, "b"), (None, "whole")]


def test_a_head_cannot_read_what_goes_into_a_joint_pass_only(tmp_path):
    from metaformer.assemble import assemble
    from metaformer.recipe import Recipe

    tokenizer = {"use": "image", "image_size": 8, "patch_size": 4}
    recipe = Recipe.model_validate(
        {
            "name": "joint",
            "tokenizers": {"left": tokenizer, "right": tokenizer},
            "encoders": {"shared": {"use": "identity", "dim": 8}},
            "passes": {"both": {"reads": ["left", "right"]}},
            "heads": {"label": {"use": "classification", "reads": "left", "num_classes": 2}},
            "tasks": {
                "t": {"data": {"train": {"use": "digits"}}, "objective": {"use": "cross_entropy", "head": "label"}}
            },
            "steps": 1,
        }
    )
    with pytest.raises(RecipeError, match=r"heads\.label\.reads: 'left' is read by a joint pass only"):
        assemble(recipe)
