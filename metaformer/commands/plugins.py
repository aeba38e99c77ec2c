"""`metaformer plugins`: every installed component by kind, and the plugins that are broken or blocked, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from metaformer.commands.output import print_table
from metaformer.discovery import DISABLE, Unavailable
from metaformer.hookspecs import KINDS
from metaformer.registry import Registry


def plugins_command(registry: Registry, as_json: bool) -> None:
    """Print the registry for people, or for programs."""
    if as_json:
        print(json.dumps(_record(registry), indent=1))
        return
    for kind in KINDS:
        rows = [
            (entry.component.name, entry.distribution, entry.version, entry.component.summary)
            for entry in registry.components(kind)
        ]
        print_table(f"{kind}s", ("name", "distribution", "version", "summary"), rows)
    _print_unavailable("broken plugins", registry.broken)
    _print_unavailable("blocked plugins", registry.disabled)
    for name in registry.not_installed:
        print(f"{DISABLE} names '{name}', which is not installed.")


def _print_unavailable(title: str, plugins: Sequence[Unavailable]) -> None:
    rows = [(other.distribution, other.version, other.reason, f"do: {other.do}") for other in plugins]
    print_table(title, ("distribution", "version", "reason", "what to do"), rows)


def _record(registry: Registry) -> dict[str, object]:
    components = [
        {"kind": entry.kind, "distribution": entry.distribution, "version": entry.version, **asdict(entry.component)}
        for entry in registry.components()
    ]
    return {
        "components": components,
        "plugins": [asdict(plugin) for plugin in registry.plugins],
        "broken": [asdict(other) for other in registry.broken],
        "blocked": [asdict(other) for other in registry.disabled],
    }
