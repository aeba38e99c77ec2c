"""What the plugin offers: read at every command, so nothing heavy is imported here."""

from __future__ import annotations

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"
MODULE = "metaformer_plugin_bytecode.bytecode"


@hookimpl
def register_tokenizers() -> list[Component]:
    return [Component("bytecode", f"{MODULE}:BytecodeTokenizer", "Compiled Python: one token per instruction.")]


@hookimpl
def register_datasets() -> list[Component]:
    return [
        Component("stdlib_functions", f"{MODULE}:StdlibFunctions", "Functions of the standard library, by package.")
    ]
