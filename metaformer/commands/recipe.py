"""`metaformer recipe`: check recipes, show one with every default, print the JSON schema for editors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from metaformer.commands.output import print_error
from metaformer.errors import MetaformerError
from metaformer.plaintext import printable
from metaformer.recipe_file import check_file, read_recipe, resolved


def check_command(recipes: Sequence[Path], sets: Sequence[str]) -> int:
    """Check every file, whatever the others hold; the exit code of the worst of them."""
    worst = 0
    for path in recipes:
        fault = check(path, sets)
        if fault is None:
            print(f"{printable(str(path), lines=False)}: ok")
            continue
        print_error(str(fault))
        # A wrong recipe (2) is the more useful answer than a broken plugin (4) met elsewhere.
        worst = fault.exit_code if worst == 0 else min(worst, fault.exit_code)
    return worst


def check(path: Path, sets: Sequence[str]) -> MetaformerError | None:
    """What is wrong with a file, as the error that running it would end in."""
    try:
        check_file(path, sets)
    except MetaformerError as error:
        return error
    return None


def show_command(recipe: Path, sets: Sequence[str]) -> None:
    """Print the recipe with every default in place."""
    print(resolved(read_recipe(recipe, sets)), end="")


def schema_command() -> None:
    """Print the JSON schema of a recipe with everything that is installed."""
    from metaformer.registry import registry
    from metaformer.schema import json_schema

    print(json.dumps(json_schema(registry()), indent=1))
