"""Finds installed plugins and loads each on its own: a broken one is set aside and named, never fatal.

Source: pluggy, whose three silent traps are closed here: hooks of unknown name, two distributions with one
entry-point name, and the import of every entry point at discovery.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import pluggy

from metaformer.errors import PluginError
from metaformer.hookspecs import API, GROUP, KINDS, Component, Hooks
from metaformer.spelling import suggest

CORE = "metaformer"
DISABLE = "METAFORMER_DISABLE_PLUGINS"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_VERSION = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True)
class Plugin:
    """One entry point of one installed distribution."""

    distribution: str
    version: str
    entry_point: str
    target: str
    """What the entry point names: a module, or `module:object`."""

    @property
    def key(self) -> str:
        """The name pluggy knows it by: an entry-point name alone may occur in two distributions."""
        return f"{self.distribution}/{self.entry_point}"

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Unavailable:
    """A plugin that is installed and not in use, with the reason and the way out."""

    distribution: str
    version: str
    entry_point: str
    reason: str
    do: str


@dataclass(frozen=True)
class Loaded:
    """A sound plugin: the object that holds its hooks, and what it registers by kind."""

    plugin: Plugin
    module: object
    components: Mapping[str, tuple[Component, ...]]
    seconds: float
    """What importing it cost every command."""


def canonical(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def one_line(error: BaseException) -> str:
    """An exception for a table: type and first line, without control characters a terminal would obey."""
    text = str(error).strip()
    first = text.splitlines()[0] if text else ""
    shown = "".join(c if c.isprintable() else " " for c in first)[:240]
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__


def blocked(env: Mapping[str, str]) -> frozenset[str]:
    """The names in `METAFORMER_DISABLE_PLUGINS`, canonically; `all` stands for all but the core."""
    return frozenset(canonical(name.strip()) for name in env.get(DISABLE, "").split(",") if name.strip())


def installed() -> tuple[list[Plugin], list[Unavailable]]:
    """Every entry point of the group, the core's first. A distribution found twice counts once."""
    plugins: list[Plugin] = []
    broken: list[Unavailable] = []
    seen: set[str] = set()
    for distribution in metadata.distributions():
        # Reading this one file is cheap; parsing the metadata of every installed package is not.
        if not _mentions_us(distribution):
            continue
        points: Iterable[metadata.EntryPoint] = ()
        name, version, fault = "unknown", "unknown", ""
        try:
            name = distribution.metadata["Name"] or name
            version = distribution.metadata["Version"] or version
            points = distribution.entry_points.select(group=GROUP)
        except Exception as error:
            fault = one_line(error)
        if canonical(name) in seen:
            continue
        if fault:
            do = f"reinstall it: pip install --force-reinstall --no-deps {name}"
            broken.append(Unavailable(name, version, "", f"its metadata cannot be read ({fault})", do))
        found = [Plugin(name, version, point.name, point.value) for point in points]
        if found or fault:
            seen.add(canonical(name))
        plugins += found
    plugins.sort(key=lambda p: (canonical(p.distribution) != CORE, canonical(p.distribution), p.entry_point))
    return plugins, broken


def _mentions_us(distribution: metadata.Distribution) -> bool:
    try:
        return GROUP in (distribution.read_text("entry_points.txt") or "")
    except (OSError, UnicodeDecodeError):
        return False  # a file that nobody can read names no plugin of ours


def load_plugin(plugin: Plugin) -> Loaded:
    """Import a plugin, check it against the plugin interface and ask it what it registers.

    Whatever goes wrong is a `PluginError`: strangers' code may raise anything, and may even try to exit."""
    start = time.perf_counter()
    module = _import(plugin)
    seconds = time.perf_counter() - start
    _check_api(plugin, module)
    manager = _trial(plugin, module)
    components = {kind: tuple(_ask(plugin, manager, hook)) for kind, hook in KINDS.items()}
    for kind, found in components.items():
        names = [component.name for component in found]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise _refused(plugin, f"registers the {kind} '{twice[0]}' twice")
    return Loaded(plugin, module, components, seconds)


def check_hooks(manager: pluggy.PluginManager, module: object) -> None:
    """Refuse hook implementations of unknown name, which pluggy would keep and never call."""
    for caller in manager.get_hookcallers(module) or ():
        mine = [impl for impl in caller.get_hookimpls() if impl.plugin is module]
        if not caller.has_spec() and not all(impl.optionalhook for impl in mine):
            known = [name for name in vars(Hooks) if not name.startswith("_")]
            raise ValueError(f"implements a hook '{caller.name}' that does not exist; {suggest(caller.name, known)}")


def new_manager() -> pluggy.PluginManager:
    """A pluggy manager that knows our hooks."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    return manager


def _refused(plugin: Plugin, reason: str, do: str = "") -> PluginError:
    default = f"update or uninstall it, or block it with {DISABLE}={plugin.distribution}"
    return PluginError(f"plugin {plugin} cannot be used", reason, f"{do}; {default}" if do else default)


def _import(plugin: Plugin) -> object:
    point = metadata.EntryPoint(plugin.entry_point, plugin.target, GROUP)
    try:
        loaded: object = point.load()
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        own = plugin.target.partition(":")[0]
        if own == missing or own.startswith(f"{missing}."):
            reason = f"its module '{missing}' is not there"
            raise _refused(
                plugin, reason, f"reinstall it: pip install --force-reinstall {plugin.distribution}"
            ) from error
        package = missing.partition(".")[0]
        reason = f"needs the package '{missing}', which is not installed"
        raise _refused(plugin, reason, f"install what it needs (pip install {package})") from error
    except SystemExit as error:
        raise _refused(plugin, f"tries to end the program when imported (SystemExit: {error.code})") from error
    except Exception as error:
        raise _refused(plugin, f"fails to import ({one_line(error)})") from error
    return loaded


def _check_api(plugin: Plugin, module: object) -> None:
    declared = getattr(module, "METAFORMER_API", None)
    match = _VERSION.fullmatch(declared) if isinstance(declared, str) else None
    if match is None:
        found = "declares no METAFORMER_API" if declared is None else f"declares METAFORMER_API = {declared!r}"
        raise _refused(plugin, f'{found}; this is version "{API}"', f'its author should write METAFORMER_API = "{API}"')
    theirs = (int(match[1]), int(match[2]))
    major, minor = (int(part) for part in API.split("."))
    if theirs[0] == major and theirs[1] <= minor:
        return
    newer = theirs > (major, minor)
    do = "upgrade metaformer" if newer else f"install a version of {plugin.distribution} made for {major}.x"
    raise _refused(plugin, f"is made for plugin API {declared}; this metaformer offers {API}", do)


def _trial(plugin: Plugin, module: object) -> pluggy.PluginManager:
    """A manager that holds this plugin alone: what breaks here cannot touch the others."""
    manager = new_manager()
    try:
        manager.register(module, plugin.key)
        check_hooks(manager, module)
    except pluggy.PluginValidationError as error:
        reason = " ".join(str(error).splitlines()[-1].split())
        hook = re.search(r"for hook '(\w+)'", str(error))
        where = f"its hook '{hook[1]}' has the wrong signature" if hook else "a hook has the wrong signature"
        raise _refused(plugin, f"{where}: {reason}") from error
    except ValueError as error:
        raise _refused(plugin, str(error)) from error
    except Exception as error:
        raise _refused(plugin, f"its hooks cannot be read ({one_line(error)})") from error
    return manager


def _ask(plugin: Plugin, manager: pluggy.PluginManager, hook: str) -> Iterator[Component]:
    caller = getattr(manager.hook, hook)
    impls = [impl for impl in caller.get_hookimpls() if not (impl.wrapper or impl.hookwrapper)]
    try:
        answers: list[Any] = caller()
        listed = [list(answer) for answer in answers if isinstance(answer, Iterable)]
    except SystemExit as error:
        raise _refused(plugin, f"its hook '{hook}' tries to end the program (SystemExit: {error.code})") from error
    except Exception as error:
        raise _refused(plugin, f"its hook '{hook}' raises {one_line(error)}") from error
    if len(listed) != len(impls):
        shown = [type(answer).__name__ for answer in answers] or ["None"]
        raise _refused(plugin, f"its hook '{hook}' returns {shown[0]} instead of a list of Components")
    for component in (item for answer in listed for item in answer):
        if not isinstance(component, Component):
            raise _refused(plugin, f"its hook '{hook}' returns a {type(component).__name__} among its Components")
        if not (isinstance(component.name, str) and _NAME.fullmatch(component.name)):
            raise _refused(plugin, f"its hook '{hook}' registers the name {component.name!r}, which is not a name")
        if not (isinstance(component.path, str) and _PATH.fullmatch(component.path)):
            raise _refused(plugin, f"'{component.name}' has the path {component.path!r}, not 'package.module:Class'")
        yield component
