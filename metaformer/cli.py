"""The command line. Every command imports what it needs when it runs: `--help` costs no torch."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from metaformer.errors import MetaformerError


class Checkpoint(StrEnum):
    """Which checkpoint of a run to use."""

    best = "best"
    latest = "latest"


class Commands(TyperGroup):
    """Turns our errors into a message and an exit code, and Ctrl-C into 130, whatever command met them."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MetaformerError as error:
            from metaformer.commands.output import print_error

            if os.environ.get("METAFORMER_DEBUG") == "1":
                raise
            print_error("\n".join([str(error), *getattr(error, "__notes__", ())]), error.every_rank)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(130) from error


class Plugins(TyperGroup):
    """`plugins` alone is `plugins list`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in SETTINGS["help_option_names"]):
            args = ["list", *args]
        return super().parse_args(ctx, args)


SETTINGS = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
    help="One plugin-based framework for any modality. A recipe, one YAML file, is the whole truth about a run.",
)
recipe_app = typer.Typer(no_args_is_help=True, context_settings=SETTINGS, help="Check, show and complete recipes.")
weights_app = typer.Typer(no_args_is_help=True, context_settings=SETTINGS, help="Look into pretrained weights.")
plugins_app = typer.Typer(
    cls=Plugins,
    context_settings=SETTINGS,
    help="List what is installed (also without a word), check it, begin one.",
)
app.add_typer(plugins_app, name="plugins")
app.add_typer(recipe_app, name="recipe")
app.add_typer(weights_app, name="weights")

Sets = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        default_factory=list,
        help="Override one value of the recipe: --set optimizer.lr=1e-4.",
    ),
]
Recipe = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or the folder of a recipe's runs.")]
Which = Annotated[Checkpoint, typer.Option(help="Which checkpoint.")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust-checkpoint",
        help="Read optimizer state that holds more than plain data. It may run code: only if you know who wrote it.",
    ),
]
Drift = Annotated[
    bool,
    typer.Option("--allow-drift", help="Go on although the recipe's meaning, or the data, have changed since."),
]


def _print_version(wanted: bool) -> bool:
    if wanted:
        from metaformer import __version__

        print(f"metaformer {__version__}")
        raise typer.Exit()
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    sets: Sets,
    recipes: Annotated[
        list[Path] | None, typer.Argument(metavar="RECIPE...", help="Recipe files, run one after another.")
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            metavar="auto|never|RUN",
            help="Go on with an unfinished run: the recipe's newest, none, or RUN (which brings its recipe).",
        ),
    ] = "never",
    trust: Trust = False,
    drift: Drift = False,
) -> None:
    """Train a model as a recipe says, evaluate it, and put its controls beside it."""
    from metaformer.session import Options
    from metaformer.train import train_command

    train_command(recipes or [], sets, resume, Options(trust, drift))


@app.command()
def resume(
    run: Run,
    sets: Sets,
    verify: Annotated[
        bool, typer.Option("--verify", help="Train nothing: repeat recorded steps and compare every number.")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="With --verify: how many steps to repeat at most.")] = 20,
    trust: Trust = False,
    drift: Drift = False,
) -> None:
    """Go on with a run from its newest checkpoint, or prove that going on gives the same run."""
    from metaformer.session import Options

    if verify:
        from metaformer.replay import verify_command

        verify_command(run, steps, Options(trust, drift))
        return
    from metaformer.train import train_command

    train_command([], sets, str(run), Options(trust, drift))


@app.command("eval")
def evaluate(run: Run, sets: Sets, checkpoint: Which = Checkpoint.best) -> None:
    """Evaluate a trained run again, also on other data (--set tasks.NAME.data.valid.root=...)."""
    from metaformer.evaluate import eval_command

    eval_command(run, sets, checkpoint.value)


@app.command()
def predict(
    run: Run,
    inputs: Annotated[
        list[str], typer.Option("--input", metavar="X", help="A file, a folder, or STREAM=VALUE; may be repeated.")
    ],
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JSONL here instead of printing.")] = None,
    checkpoint: Which = Checkpoint.best,
) -> None:
    """Predict with a trained run."""
    from metaformer.predict import predict_command

    predict_command(run, inputs, output, checkpoint.value)


@app.command()
def embed(
    run: Run,
    data: Annotated[
        list[str], typer.Option("--data", metavar="X", help="A file, a folder, or STREAM=VALUE; may be repeated.")
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The Parquet file to write.")],
    checkpoint: Which = Checkpoint.best,
) -> None:
    """Write embeddings of data to a Parquet file."""
    from metaformer.predict import embed_command

    embed_command(run, data, output, checkpoint.value)


@app.command()
def retrieve(
    run: Run,
    task: Annotated[str | None, typer.Option(metavar="TASK", help="Where several tasks have pairs.")] = None,
    rerank: Annotated[
        str | None, typer.Option(metavar="HEAD", help="A matching head that reads queries and candidates jointly.")
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, metavar="N", help="How many to re-rank for each query.")] = 16,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the numbers here as JSON too.")] = None,
    checkpoint: Which = Checkpoint.best,
) -> None:
    """Retrieve both ways over a trained run's validation data: recall and median rank, re-ranked if asked."""
    from metaformer.retrieve import retrieve_command

    retrieve_command(run, task, rerank, candidates, output, checkpoint.value)


@app.command()
def study(
    recipe: Recipe,
    sets: Sets,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="How many seeds, from the recipe's on.")] = 3,
) -> None:
    """Train a recipe with every control and every preset over several seeds, or go on with that, and compare."""
    from metaformer.study import study_command

    study_command(recipe, sets, seeds)


@app.command()
def inspect(recipe: Recipe, sets: Sets) -> None:
    """Show what a recipe builds and what it costs, without weights, downloads or memory."""
    from metaformer.inspect import inspect_command

    inspect_command(recipe, sets)


@plugins_app.command("list")
def list_plugins(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """List every installed component, and the plugins that are broken or blocked."""
    from metaformer.commands.plugins import plugins_command
    from metaformer.registry import registry

    plugins_command(registry(), as_json)


@plugins_app.command("check")
def check_plugins(
    distributions: Annotated[
        list[str], typer.Argument(metavar="DISTRIBUTION...", help="Installed distributions, such as metaformer.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the receipts for programs.")] = False,
) -> None:
    """Check that the components of a plugin keep what the core relies on; the receipt names what was checked."""
    from metaformer.commands.check import check_command
    from metaformer.registry import registry

    raise typer.Exit(check_command(registry(), distributions, as_json))


@plugins_app.command("new")
def new_plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as smell, for metaformer-plugin-smell.")],
    modality: Annotated[bool, typer.Option("--modality", help="A tokenizer, with its preprocess.")] = False,
    bridge: Annotated[bool, typer.Option("--bridge", help="One stream out of several.")] = False,
    head: Annotated[bool, typer.Option("--head", help="A stream's prediction.")] = False,
    objective: Annotated[bool, typer.Option("--objective", help="A loss.")] = False,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where to write the project's folder.")] = Path(),
) -> None:
    """Write a whole plugin that passes its checks, to be changed into yours."""
    from metaformer.commands.new import new_command
    from metaformer.registry import registry

    wanted = {"modality": modality, "bridge": bridge, "head": head, "objective": objective}
    new_command(registry(), name, [kind for kind, is_wanted in wanted.items() if is_wanted], output)


@app.command()
def doctor() -> None:
    """Look for what this machine lacks, and say how to mend it."""
    from metaformer.doctor import doctor_command
    from metaformer.registry import registry

    raise typer.Exit(doctor_command(registry()))


@recipe_app.command()
def check(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE...", help="Recipe files.")], sets: Sets
) -> None:
    """Check recipes without running them: every fault at once, each with its line."""
    from metaformer.commands.recipe import check_command

    raise typer.Exit(check_command(recipes, sets))


@recipe_app.command()
def show(recipe: Recipe, sets: Sets) -> None:
    """Print a recipe with every default in place."""
    from metaformer.commands.recipe import show_command

    show_command(recipe, sets)


@recipe_app.command()
def schema() -> None:
    """Print the JSON schema of recipes with everything installed, for completion and checks in editors."""
    from metaformer.commands.recipe import schema_command

    schema_command()


@weights_app.command("inspect")
def inspect_weights(uri: Annotated[str, typer.Argument(metavar="URI", help="For example file:blocks.pth.")]) -> None:
    """Show which layout weights have, and what of them our encoder can use."""
    from metaformer.weights.commands import inspect_command

    inspect_command(uri)


@weights_app.command("convert")
def convert_weights(
    uri: Annotated[str, typer.Argument(metavar="URI", help="For example timm:NAME, hf:NAME or file:PATH.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")],
    part: Annotated[str | None, typer.Option(help="Which tower, where there are several.")] = None,
    to: Annotated[str, typer.Option(metavar="metaformer|meta_transformer", help="Naming to write.")] = "metaformer",
) -> None:
    """Write the encoder behind a weights URI as safetensors."""
    from metaformer.weights.commands import convert_command

    convert_command(uri, output, part, to)


def without_launcher(arguments: list[str]) -> list[str]:
    """Arguments without `--local_rank`, which DeepSpeed's launcher puts anywhere; the environment says the same."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if skip:
            skip = False
        elif name in ("--local_rank", "--local-rank"):
            skip = not equals
        else:
            kept.append(argument)
    return kept


def main() -> None:
    """Entry point of the command `metaformer`."""
    app(args=without_launcher(sys.argv[1:]), prog_name="metaformer")
