"""The plugin host: discovery in isolation, quarantine with a reason, lookups, clashes, hooks that say who failed."""

from __future__ import annotations

import re
import sys

import pytest

from metaformer.errors import DataError, PluginError
from metaformer.hookspecs import API, KINDS, hookimpl
from metaformer.registry import BASES, Registry

SOUND = """
from metaformer import Component, hookimpl

METAFORMER_API = "1.0"

@hookimpl
def register_heads():
    return [Component("sniff", "{module}:Sniff", "Smells.")]
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a distribution with one plugin module on the path, as pip would: module, metadata, entry point."""
    before = set(sys.modules)

    def install(distribution, code=SOUND, *, version="1.0", entry=None, module=None, folder=None):
        module = module or distribution.replace("-", "_")
        site = tmp_path / (folder or f"{distribution}-{version}")
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        if code is not None:
            (site / f"{module}.py").write_text(code.replace("{module}", module))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[metaformer]\n{entry or module} = {module}\n")
        monkeypatch.syspath_prepend(site)
        return site

    yield install
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in sys.modules[name].__file__:
            del sys.modules[name]


def discover(**env):
    return Registry.discover(env)


def broken(registry, distribution):
    (found,) = (other for other in registry.broken if other.distribution == distribution)
    return found


def test_the_core_comes_through_its_own_entry_point():
    registry = discover()
    assert (registry.plugins[0].distribution, registry.plugins[0].entry_point) == ("metaformer", "metaformer")
    found = registry.find("encoder", "transformer")
    assert (found.distribution, found.kind) == ("metaformer", "encoder")


def test_every_builtin_can_be_loaded():
    registry = discover()
    mine = [entry for entry in registry.components() if entry.distribution == "metaformer"]
    assert {entry.kind for entry in mine} == {"encoder", "head", "objective", "metric", "dataset"}
    for entry in mine:
        assert registry.load(entry.kind, entry.pinned).__name__ == entry.component.path.partition(":")[2]
        assert entry.component.summary.endswith(".")


def test_every_kind_has_a_base_class():
    import metaformer.base

    assert set(BASES) == set(KINDS)
    assert all(isinstance(vars(metaformer.base)[name], type) for name in BASES.values())


def test_a_plugin_is_found_with_distribution_and_version(install):
    install("h1-sound", version="2.3")
    found = discover().find("head", "sniff")
    assert (found.distribution, found.version, found.component.summary) == ("h1-sound", "2.3", "Smells.")
    assert str(found) == "head 'sniff' of h1-sound 2.3"


HEAD = 'from metaformer import Component, hookimpl\nMETAFORMER_API = "1.0"\n'
BROKEN = {
    "import-error": (HEAD + "from metaformer import nothing_of_the_kind\n", r"fails to import \(ImportError"),
    "missing-dependency": (HEAD + "import no_such_package.inner\n", "needs the package 'no_such_package'"),
    "syntax-error": (HEAD + "def f(:\n", r"fails to import \(SyntaxError"),
    "os-error": (HEAD + "raise OSError('libfoo.so: cannot open')\n", r"fails to import \(OSError: libfoo.so"),
    "runtime-error": (HEAD + "raise RuntimeError('a\\x1b[31m\\nb')\n", r"fails to import \(RuntimeError: a \[31m\)"),
    "system-exit": (HEAD + "import sys; sys.exit(3)\n", r"end the program when imported \(SystemExit: 3\)"),
    "recursion": (HEAD + "def f(): f()\nf()\n", r"fails to import \(RecursionError"),
    "no-module": (None, "its module 'h1_no_module' is not there"),
    "no-api": ("x = 1\n", "declares no METAFORMER_API"),
    "odd-api": ("METAFORMER_API = 1.0\n", "declares METAFORMER_API = 1.0"),
    "next-major": ('METAFORMER_API = "2.0"\n', "made for plugin API 2.0; this metaformer offers"),
    "past-major": ('METAFORMER_API = "0.9"\n', "made for plugin API 0.9; this metaformer offers"),
    "next-minor": ('METAFORMER_API = "1.7"\n', "made for plugin API 1.7; this metaformer offers"),
    "unknown-hook": (
        HEAD + "@hookimpl\ndef register_tokenizer(): return []\n",
        "a hook 'register_tokenizer' that does not exist; did you mean 'register_tokenizers'?",
    ),
    "wrong-signature": (
        HEAD + "@hookimpl\ndef step_finished(run, loss): pass\n",
        "its hook 'step_finished' has the wrong signature: .*'loss'",
    ),
    "raises": (HEAD + "@hookimpl\ndef register_heads(): 1 / 0\n", "'register_heads' raises ZeroDivisionError"),
    "exits": (HEAD + "@hookimpl\ndef register_heads(): raise SystemExit(1)\n", "tries to end the program"),
    "late": (HEAD + "@hookimpl\ndef register_heads():\n  yield 1 / 0\n", "'register_heads' raises ZeroDivisionError"),
    "none": (HEAD + "@hookimpl\ndef register_heads(): pass\n", "returns None instead of a list"),
    "alone": (HEAD + "@hookimpl\ndef register_heads(): return Component('a', 'b:C')\n", "returns Component instead"),
    "words": (HEAD + "@hookimpl\ndef register_heads(): return ['a']\n", "returns a str among its Components"),
    "name": (HEAD + "@hookimpl\ndef register_heads(): return [Component('a:b', 'b:C')]\n", "the name 'a:b'"),
    "path": (HEAD + "@hookimpl\ndef register_heads(): return [Component('a', 'b.C')]\n", "the path 'b.C'"),
    "twice": (HEAD + "@hookimpl\ndef register_heads(): return [Component('a', 'b:C')] * 2\n", "the head 'a' twice"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_set_aside_with_the_reason_and_a_way_out(install, name):
    code, reason = BROKEN[name]
    install("h1-neighbour")
    install(f"h1-{name}", code, version="0.7")
    registry = discover()
    found = broken(registry, f"h1-{name}")
    assert re.search(reason, found.reason)
    assert "\n" not in found.reason
    assert (found.version, found.entry_point) == ("0.7", f"h1_{name.replace('-', '_')}")
    assert f"METAFORMER_DISABLE_PLUGINS=h1-{name}" in found.do
    assert registry.find("head", "sniff").distribution == "h1-neighbour"
    assert not [entry for entry in registry.components() if entry.distribution == f"h1-{name}"]


def test_a_missing_dependency_says_what_to_install(install):
    install("h1-needy", BROKEN["missing-dependency"][0])
    assert "pip install no_such_package" in broken(discover(), "h1-needy").do


def test_api_versions_say_which_side_to_upgrade(install):
    install("h1-ahead", 'METAFORMER_API = "2.0"\n')
    install("h1-behind", 'METAFORMER_API = "0.9"\n')
    registry = discover()
    assert "upgrade metaformer" in broken(registry, "h1-ahead").do
    assert f"made for {API.split('.')[0]}.x" in broken(registry, "h1-behind").do


def test_a_module_that_does_not_parse_as_metadata_breaks_nothing(install):
    site = install("h1-garbled")
    (site / "h1_garbled-1.0.dist-info" / "entry_points.txt").write_text("[metaformer]\nno equals sign\n")
    install("h1-sound")
    registry = discover()
    assert registry.find("head", "sniff").distribution == "h1-sound"
    assert not [plugin for plugin in registry.plugins if plugin.distribution == "h1-garbled"]


def test_two_distributions_with_one_entry_point_name_both_live(install):
    install("h1-left", entry="same")
    install("h1-right", SOUND.replace("sniff", "taste"), entry="same")
    registry = discover()
    assert registry.find("head", "sniff").distribution == "h1-left"
    assert registry.find("head", "taste").distribution == "h1-right"
    assert registry.broken == []


def test_two_distributions_with_one_module_keep_the_first_and_name_both(install):
    install("h1-original", module="h1_module")
    install("h1-republished", None, module="h1_module")
    registry = discover()
    assert registry.find("head", "sniff").distribution == "h1-original"
    found = broken(registry, "h1-republished")
    assert "h1-original already offers" in found.reason


def test_one_distribution_found_twice_counts_once(install):
    install("h1-sound", version="1.0")
    install("h1-sound", version="2.0")
    registry = discover()
    assert [plugin.version for plugin in registry.plugins if plugin.distribution == "h1-sound"] == ["2.0"]
    assert registry.find("head", "sniff").version == "2.0"


def test_a_clash_names_both_and_can_be_settled(install):
    install("h1-left")
    install("h1-right")
    registry = discover()
    with pytest.raises(PluginError) as caught:
        registry.find("head", "sniff")
    for part in ("h1-left 1.0", "h1-right 1.0", '`use: "h1-left:sniff"`', '`use: "h1-right:sniff"`'):
        assert part in str(caught.value)
    assert registry.find("head", "h1-right:sniff").distribution == "h1-right"
    assert registry.find("head", "H1_Right:sniff").distribution == "h1-right"
    assert discover(METAFORMER_DISABLE_PLUGINS="h1-left").find("head", "sniff").distribution == "h1-right"


def test_a_plugin_that_is_slow_to_import_works_and_is_noted(install):
    from metaformer.doctor import examine

    install("h1-slow", "import time\ntime.sleep(0.6)\n" + SOUND)
    registry = discover()
    assert registry.find("head", "sniff").distribution == "h1-slow"
    assert registry.slow["h1-slow"] >= 0.6
    assert ("note", "h1-slow") in {(finding.state, finding.subject) for finding in examine(registry)}


def test_plugins_can_be_blocked_by_name_or_all_but_the_core(install):
    install("h1-left", "raise SystemExit\n")
    install("h1-right")
    registry = discover(METAFORMER_DISABLE_PLUGINS=" H1_Left , metaformer, h1-typo")
    assert [other.distribution for other in registry.disabled] == ["h1-left"]
    assert registry.broken == []
    assert registry.not_installed == ["h1-typo"]
    assert registry.find("encoder", "transformer")
    registry = discover(METAFORMER_DISABLE_PLUGINS="all")
    assert [plugin.distribution for plugin in registry.plugins] == ["metaformer"]
    assert {"h1-left", "h1-right"} <= {other.distribution for other in registry.disabled}


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("head", "clasification", "did you mean 'classification'?"),
        ("tokenizer", "h1smell", "perhaps: pip install metaformer-plugin-h1smell"),
        ("dataset", "h1data", "perhaps: pip install metaformer-plugin-h1data"),
        ("head", "h1-absent:x", "pip install h1-absent"),
        ("head", "metaformer:clasification", "metaformer offers no head 'clasification'"),
        ("heads", "classification", "did you mean 'head'?"),
    ],
)
def test_what_is_not_there_says_what_to_do(kind, name, said):
    with pytest.raises(PluginError, match=re.escape(said)) as caught:
        discover().find(kind, name)
    assert caught.value.exit_code == 4


def test_a_broken_plugin_is_named_as_the_likely_home(install):
    install("metaformer-plugin-h1smell", "raise OSError('no nose')\n", version="0.7")
    with pytest.raises(PluginError, match=r"metaformer-plugin-h1smell 0\.7, is broken: .*no nose"):
        discover().find("tokenizer", "h1smell")
    with pytest.raises(PluginError, match="is blocked"):
        discover(METAFORMER_DISABLE_PLUGINS="metaformer-plugin-h1smell").find("tokenizer", "h1smell")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("class Other: pass", "h1_parts_{n}.py:Sniff fails|h1_parts_{n}:Sniff fails.*AttributeError"),
        ("import no_such_package", "'no_such_package' is not installed"),
        ("raise OSError('libcuda.so')", "OSError: libcuda.so"),
        ("raise SystemExit(1)", "SystemExit"),
        ("class Sniff: pass", r"is not a subclass of metaformer\.base\.Head"),
        ("from metaformer.base import Head\nclass Sniff(Head): pass", "does not define: forward"),
    ],
)
def test_a_class_that_cannot_be_used_names_component_and_plugin(install, code, said, request):
    number = request.node.callspec.indices["code"]
    site = install(f"h1-lazy-{number}", SOUND.replace("{module}", f"h1_parts_{number}"))
    (site / f"h1_parts_{number}.py").write_text(code + "\n")
    with pytest.raises(PluginError, match=said.format(n=number)) as caught:
        discover().load("head", "sniff")
    assert caught.value.asked == f"head 'sniff' of h1-lazy-{number} 1.0"


def test_a_failed_import_keeps_its_cause(install):
    site = install("h1-cause", SOUND.replace("{module}", "h1_cause_parts"))
    (site / "h1_cause_parts.py").write_text("raise OSError('deep')\n")
    with pytest.raises(PluginError) as caught:
        discover().load("head", "sniff")
    assert isinstance(caught.value.__cause__, OSError)


class Listener:
    """An observer that remembers, or fails."""

    def __init__(self, error=None):
        self.error, self.seen = error, []

    @hookimpl
    def step_finished(self, run, record):
        if self.error:
            raise self.error
        self.seen.append(record["step"])


def test_observers_hear_what_happens_and_can_be_replaced():
    registry, first, second = discover(), Listener(), Listener()
    registry.register_observer(first, "sink")
    registry.observe("step_finished", run=None, record={"step": 1})
    registry.register_observer(second, "sink")
    registry.observe("step_finished", run=None, record={"step": 2})
    registry.unregister_observer("sink")
    registry.observe("step_finished", run=None, record={"step": 3})
    assert (first.seen, second.seen) == ([1], [2])


def test_a_failing_observer_is_named_with_its_hook():
    registry, error = discover(), ValueError("no disk")
    registry.register_observer(Listener(error), "sink")
    with pytest.raises(PluginError, match=r"hook 'step_finished' of plugin 'sink'\n.*ValueError: no disk") as caught:
        registry.observe("step_finished", run=None, record={"step": 1})
    assert caught.value.__cause__ is error


def test_our_own_errors_keep_their_type_and_say_where_they_come_from():
    registry, error = discover(), DataError("row 3", "NaN")
    registry.register_observer(Listener(error), "sink")
    with pytest.raises(DataError) as caught:
        registry.observe("step_finished", run=None, record={"step": 1})
    assert caught.value.__notes__ == ["raised by plugin 'sink' in its hook 'step_finished'"]


def test_an_observer_with_an_unknown_hook_is_refused():
    class Typo:
        @hookimpl
        def step_finishd(self, run, record):
            pass

    registry = discover()
    with pytest.raises(PluginError, match=r"step_finishd.*did you mean 'step_finished'"):
        registry.register_observer(Typo(), "typo")
    registry.observe("step_finished", run=None, record={})


WEIGHTS = """
from metaformer import hookimpl
METAFORMER_API = "1.0"

@hookimpl(tryfirst=True)
def load_weights(uri):
    if uri == "smell:broken":
        raise OSError("no such nose")
    return {"w": uri} if uri.startswith("smell:") else None
"""


def test_weights_come_from_the_first_plugin_that_knows_the_scheme(install):
    install("h1-weights", WEIGHTS)
    registry = discover()
    assert registry.load_weights("smell:x") == {"w": "smell:x"}
    with pytest.raises(PluginError, match=r"hook 'load_weights' of plugin 'h1-weights'\n.*no such nose"):
        registry.load_weights("smell:broken")
