"""The plugin host: which components are installed, from whom, and the way to call plugins' hooks.

Built-ins come through the same door as strangers: the entry point of the distribution `metaformer`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pluggy

from metaformer.discovery import (
    CORE,
    DISABLE,
    Loaded,
    Plugin,
    Unavailable,
    blocked,
    canonical,
    check_hooks,
    installed,
    load_plugin,
    new_manager,
    one_line,
)
from metaformer.errors import MetaformerError, PluginError
from metaformer.hookspecs import KINDS, Component
from metaformer.spelling import nearest, suggest

if TYPE_CHECKING:
    import torch

BASES: Mapping[str, str] = {kind: kind.capitalize() for kind in KINDS}
"""Component kind → the class in `metaformer.base` that its components derive from."""


SLOW = 0.5
"""Seconds of import after which a plugin is called slow."""


@dataclass(frozen=True)
class Registered:
    """A component and the distribution it comes from."""

    kind: str
    component: Component
    distribution: str
    version: str

    @property
    def pinned(self) -> str:
        """The name that no other distribution can take: `distribution:name`."""
        return f"{self.distribution}:{self.component.name}"

    def __str__(self) -> str:
        return f"{self.kind} '{self.component.name}' of {self.distribution} {self.version}"


class Registry:
    """Everything the installed plugins offer. Discovery never raises: see `broken` and `disabled`."""

    def __init__(self) -> None:
        self._manager: pluggy.PluginManager = new_manager()
        self._components: dict[tuple[str, str], list[Registered]] = {}
        self.plugins: list[Plugin] = []
        """Those in use, the core first."""
        self.broken: list[Unavailable] = []
        self.disabled: list[Unavailable] = []
        self.slow: dict[str, float] = {}
        """Plugins that took long to import → seconds: every command waits for them."""
        self.not_installed: list[str] = []
        """Names in METAFORMER_DISABLE_PLUGINS that no installed plugin has."""

    @classmethod
    def discover(cls, env: Mapping[str, str] = os.environ) -> Registry:
        """Load every installed plugin in isolation; broken and blocked ones are listed, with the reason."""
        registry = cls()
        plugins, registry.broken = installed()
        block = blocked(env)
        present = {canonical(plugin.distribution) for plugin in plugins}
        registry.not_installed = sorted(block - present - {"all"})
        for plugin in plugins:
            name = canonical(plugin.distribution)
            facts = (plugin.distribution, plugin.version, plugin.entry_point)
            if name != CORE and (name in block or "all" in block):
                do = f"take it out of {DISABLE} to use it"
                registry.disabled.append(Unavailable(*facts, f"blocked by {DISABLE}", do))
                continue
            try:
                registry._add(load_plugin(plugin))
            except PluginError as error:
                registry.broken.append(Unavailable(*facts, error.found, error.do))
        if CORE not in present:
            do = "install it (pip install metaformer, or pip install -e . in a checkout)"
            reason = "its entry point is not found: it runs from a folder, without having been installed"
            registry.broken.append(Unavailable(CORE, "unknown", CORE, reason, do))
        return registry

    def _add(self, loaded: Loaded) -> None:
        plugin, manager = loaded.plugin, self._manager
        twin = manager.get_name(loaded.module)
        if twin is not None:
            other = twin.partition("/")[0]
            found = f"its entry point names the module '{plugin.target}', which {other} already offers"
            do = f"uninstall {plugin.distribution} or {other}: a module can belong to one plugin only"
            raise PluginError(f"plugin {plugin} cannot be used", found, do)
        manager.register(loaded.module, plugin.key)
        self.plugins.append(plugin)
        if loaded.seconds > SLOW:
            self.slow[plugin.distribution] = loaded.seconds
        for kind, components in loaded.components.items():
            for component in components:
                entry = Registered(kind, component, plugin.distribution, plugin.version)
                self._components.setdefault((kind, component.name), []).append(entry)

    def components(self, kind: str | None = None) -> list[Registered]:
        """What is installed, of one kind or of all, in the order kind, name, distribution."""
        kinds = list(KINDS)
        found = [entry for entries in self._components.values() for entry in entries]
        found = [entry for entry in found if kind in (None, entry.kind)]
        return sorted(found, key=lambda r: (kinds.index(r.kind), r.component.name, r.distribution))

    def find(self, kind: str, name: str) -> Registered:
        """The component behind `use: name`, where `name` may be `distribution:name`."""
        if kind not in KINDS:
            raise PluginError(f"{kind} '{name}'", f"no such kind of component as '{kind}'", suggest(kind, KINDS))
        origin, _, plain = name.rpartition(":")
        found = self._components.get((kind, plain), [])
        if origin:
            found = [entry for entry in found if canonical(entry.distribution) == canonical(origin)]
        if not found:
            raise self._unknown(kind, plain, origin)
        if len(found) > 1:
            origins = " and ".join(f"{entry.distribution} {entry.version}" for entry in found)
            choice = " or ".join(f'`use: "{entry.pinned}"`' for entry in found)
            do = f"write {choice}, or block one with {DISABLE}"
            raise PluginError(f"{kind} '{name}'", f"both {origins} offer {_article(kind)} of this name", do)
        return found[0]

    def _unknown(self, kind: str, name: str, origin: str) -> PluginError:
        asked = f"{kind} '{f'{origin}:{name}' if origin else name}'"
        for state, absent in [("broken", self.broken), ("blocked", self.disabled)]:
            for other in absent:
                theirs = canonical(other.distribution)
                home = canonical(origin) == theirs if origin else canonical(name) in theirs.split("-")
                # One that does not load cannot say what it offers: its name is the only hint.
                if home:
                    found = f"its likely home, {other.distribution} {other.version}, is {state}: {other.reason}"
                    return PluginError(asked, found, other.do)
        known = [entry.component.name for entry in self.components(kind)]
        found = f"no installed plugin offers {_article(kind)} '{name}'"
        if origin:
            known = [e.component.name for e in self.components(kind) if canonical(e.distribution) == canonical(origin)]
            if canonical(origin) not in {canonical(plugin.distribution) for plugin in self.plugins}:
                return PluginError(asked, f"the plugin '{origin}' is not installed", f"pip install {origin}")
            found = f"{origin} offers no {kind} '{name}'"
        do = suggest(name, known, none=f"no {kind} is installed at all")
        if not origin and kind in ("tokenizer", "dataset") and nearest(name, known) is None:
            # A guess, and worded as one: a data set may live in the plugin of its modality.
            guess = f"metaformer-plugin-{canonical(name)}"
            do = f"install the plugin that has it (perhaps: pip install {guess}); {do}"
        if self.broken:
            names = ", ".join(f"{other.distribution} {other.version}" for other in self.broken)
            do += f"; or repair a broken plugin ({names}; see `metaformer plugins`)"
        return PluginError(asked, found, do)

    def load(self, kind: str, name: str) -> type[Any]:
        """Import the class behind a component; its plugin is named when that fails."""
        entry = self.find(kind, name)
        module, _, attribute = entry.component.path.partition(":")
        asked, block = str(entry), f"update or uninstall {entry.distribution}"
        try:
            found: object = getattr(importlib.import_module(module), attribute)
        except MetaformerError:
            raise
        except ModuleNotFoundError as error:
            missing = f"'{error.name}' is not installed" if error.name else one_line(error)
            do = f"install what it needs (pip install {(error.name or '').partition('.')[0]}), or {block}"
            raise PluginError(asked, f"importing {module} fails: {missing}", do if error.name else block) from error
        except (Exception, SystemExit) as error:
            # CPU builds of media libraries fail with OSError or RuntimeError, not with ImportError.
            raise PluginError(asked, f"importing {entry.component.path} fails: {one_line(error)}", block) from error
        base = getattr(importlib.import_module("metaformer.base"), BASES[entry.kind])
        if not (isinstance(found, type) and issubclass(found, base)):
            raise PluginError(
                asked, f"{entry.component.path} is not a subclass of metaformer.base.{base.__name__}", block
            )
        if inspect.isabstract(found):
            lacking = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
            raise PluginError(asked, f"{entry.component.path} does not define: {lacking}", block)
        return found

    def register_observer(self, observer: object, name: str) -> None:
        """Add an object whose methods are hook implementations; one of the same name is replaced."""
        self.unregister_observer(name)
        try:
            self._manager.register(observer, name)
            check_hooks(self._manager, observer)
        except (pluggy.PluginValidationError, ValueError) as error:
            self.unregister_observer(name)
            raise PluginError(f"observer '{name}'", " ".join(str(error).split()), "see metaformer.hookspecs") from error

    def unregister_observer(self, name: str) -> None:
        """Take an observer away again; one that is not there is no fault."""
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)

    def observe(self, hook: str, **arguments: Any) -> None:
        """Call an observer hook, one plugin after the other; a failure names plugin and hook."""
        for name, caller in self._callers(hook):
            with _origin(name, hook):
                caller(**arguments)

    def save_states(self, run: Any) -> dict[str, dict[str, Any]]:
        """Plugin → its version and what it wants to find again when the run goes on."""
        out = {}
        for name, caller in self._callers("save_state"):
            with _origin(name, "save_state"):
                answers = [answer for answer in caller(run=run) if answer is not None]
            if answers:
                out[name] = {"version": self._version(name), "state": dict(answers[0])}
        return out

    def load_states(self, run: Any, states: Mapping[str, Mapping[str, Any]], warn: Callable[[str], None]) -> None:
        """Hand every plugin what it said when a checkpoint was saved; `warn` is told of versions that differ. Raises
        PluginError for one that is gone."""
        callers = dict(self._callers("load_state"))
        for name, kept in states.items():
            if name not in callers:
                do = f"install {name} {kept['version']} again"
                raise PluginError(f"go on with {run.path}", f"the plugin '{name}' kept state there and is gone", do)
            if kept["version"] != self._version(name):
                warn(f"plugin {name}: the checkpoint is from version {kept['version']}, this is {self._version(name)}")
            with _origin(name, "load_state"):
                callers[name](run=run, state=kept["state"])

    def _version(self, name: str) -> str:
        """The version of the distribution behind a plugin's name; empty for objects registered in this process."""
        home = name.partition("/")[0]
        return next(
            (plugin.version for plugin in self.plugins if canonical(plugin.distribution) == canonical(home)), ""
        )

    def load_weights(self, uri: str) -> Mapping[str, torch.Tensor] | None:
        """The first plugin's answer that is not None, or None: tensors behind a weights URI."""
        for name, caller in self._callers("load_weights"):
            with _origin(name, "load_weights"):
                answer: Mapping[str, torch.Tensor] | None = caller(uri=uri)
            if answer is not None:
                return answer
        return None

    def _callers(self, hook: str) -> Iterator[tuple[str, pluggy.HookCaller]]:
        """The hook once per plugin that implements it, in pluggy's order (`tryfirst` first)."""
        impls = getattr(self._manager.hook, hook).get_hookimpls()
        plugins = self._manager.get_plugins()
        for impl in reversed(impls):
            others = [plugin for plugin in plugins if plugin is not impl.plugin]
            yield impl.plugin_name, self._manager.subset_hook_caller(hook, others)


@contextmanager
def _origin(key: str, hook: str) -> Iterator[None]:
    """Says which plugin and hook an exception comes from. Our own errors keep their type and exit code."""
    plugin = key.partition("/")[0]
    try:
        yield
    except MetaformerError as error:
        error.add_note(f"raised by plugin '{plugin}' in its hook '{hook}'")
        raise
    except Exception as error:
        do = f"report it to the plugin's authors, or block it with {DISABLE}={plugin}"
        raise PluginError(f"hook '{hook}' of plugin '{plugin}'", one_line(error), do) from error


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


@functools.cache
def registry() -> Registry:
    """The registry of this process, discovered at the first call."""
    return Registry.discover()
