"""The command line: quick, torch-free where it can be, right exit codes, messages instead of tracebacks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from metaformer import __version__, cli, doctor
from metaformer.discovery import canonical
from metaformer.errors import DataError, StoppedError
from metaformer.registry import Registry

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command in this process, as its entry point does: exit code, standard output, standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["metaformer", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run


# Runs a command, then says on standard error how long it took and which heavy packages it imported.
WATCHED = """
import sys, time
start = time.process_time()
from metaformer.cli import main
sys.argv = ["metaformer", *sys.argv[1:]]
try:
    main()
finally:
    heavy = [name for name in ("torch", "numpy", "deepspeed", "transformers", "timm", "pyarrow") if name in sys.modules]
    print(time.process_time() - start, heavy, file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["plugins"], ["plugins", "--json"], ["doctor"]])
def test_light_commands_are_quick_and_import_no_torch(arguments):
    command = [sys.executable, "-c", WATCHED, *arguments]
    # CPU time, and the better of two: other processes of the machine do not count.
    reports = [subprocess.run(command, capture_output=True, text=True).stderr.split(" ", 1) for _ in range(2)]
    assert {heavy.strip() for _, heavy in reports} == {"[]"}
    assert min(float(seconds) for seconds, _ in reports) < 1


def test_reading_a_recipe_imports_no_torch(tmp_path):
    code = f"""
import sys
from metaformer.recipe_file import read_recipe, resolved
from metaformer.errors import RecipeError
try:
    read_recipe({str(ROOT / "tests" / "broken_recipes" / "11_several_at_once.yaml")!r})
except RecipeError as error:
    print(len(error.problems))
print("torch" in sys.modules, "numpy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["8", "False", "False"]


def test_help_names_every_command(run):
    code, out, _ = run("--help")
    assert code == 0
    for command in ("train", "eval", "predict", "embed", "inspect", "plugins", "doctor", "recipe", "weights"):
        assert re.search(rf"\b{command}\b", out)
    assert "local_rank" not in out


def test_the_version_is_the_distributions():
    done = subprocess.run([sys.executable, "-m", "metaformer", "--version"], capture_output=True, text=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert done.stdout.split() == ["metaformer", __version__]
    assert __version__ == project["version"]


@pytest.mark.parametrize("arguments", [["nonsense"], ["plugins", "--nonsense"], ["train"], ["recipe", "check"]])
def test_wrong_usage_exits_2(run, arguments):
    code, out, err = run(*arguments)
    assert code == 2
    assert "Traceback" not in out + err


@pytest.mark.parametrize("launcher", ["--local_rank=3", "--local-rank=3", "--local_rank 3"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_launchers_argument_is_ignored_wherever_it_stands(run, launcher, place):
    arguments = ["recipe", "show", "/no/such/recipe.yaml"]
    arguments[place:place] = launcher.split()
    code, _, err = run(*arguments)
    assert code == 2
    assert "cannot be read" in err


def test_the_launchers_argument_may_be_the_last():
    assert cli.without_launcher(["train", "a.yaml", "--local_rank=0"]) == ["train", "a.yaml"]
    assert cli.without_launcher(["--local_rank", "0", "train", "--set", "a=b"]) == ["train", "--set", "a=b"]


def test_plugins_lists_components_by_kind(run):
    code, out, _ = run("plugins")
    assert code == 0
    assert re.search(r"^encoders\n(  .*\n)*  transformer +metaformer +\S+ +The standard transformer", out, re.MULTILINE)
    code, out, _ = run("plugins", "--json")
    record = json.loads(out)
    entry = next(c for c in record["components"] if (c["kind"], c["name"]) == ("encoder", "transformer"))
    assert (entry["distribution"], entry["path"]) == (
        "metaformer",
        "metaformer.encoders.transformer:TransformerEncoder",
    )
    assert {"plugins", "broken", "blocked"} <= set(record)


def test_plugins_lists_broken_and_blocked_ones_with_the_reason(tmp_path):
    for name, code in (("h1-cli-ill", "raise OSError('no \\x1b[31mlibrary')"), ("h1-cli-blocked", "1/0")):
        module = name.replace("-", "_")
        info = tmp_path / f"{module}-0.3.dist-info"
        info.mkdir()
        (tmp_path / f"{module}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3\n")
        (info / "entry_points.txt").write_text(f"[metaformer]\n{module} = {module}\n")
    env = os.environ | {"PYTHONPATH": str(tmp_path), "METAFORMER_DISABLE_PLUGINS": "h1-cli-blocked,h1-cli-typo"}
    command = [sys.executable, "-m", "metaformer", "plugins"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0
    assert re.search(r"broken plugins\n  h1-cli-ill +0\.3 +fails to import \(OSError: no  ?\[31mlibrary\)", done.stdout)
    assert re.search(r"blocked plugins\n  h1-cli-blocked +0\.3 +blocked by", done.stdout)
    assert "names 'h1-cli-typo', which is not installed" in done.stdout
    assert "\x1b" not in done.stdout
    assert "transformer" in done.stdout


def raising(error):
    def command(*_):
        raise error

    return command


@pytest.mark.parametrize(("error", "code"), [(DataError("row 3", "NaN", "mend it"), 3), (StoppedError("stopped"), 75)])
def test_our_errors_become_a_message_and_their_exit_code(run, monkeypatch, error, code):
    monkeypatch.setattr("metaformer.commands.plugins.plugins_command", raising(error))
    error.add_note("raised by plugin 'x'")
    found, out, err = run("plugins")
    assert (found, out) == (code, "")
    assert err == f"{error}\nraised by plugin 'x'\n"


def test_only_rank_zero_speaks(run, monkeypatch):
    monkeypatch.setattr("metaformer.commands.plugins.plugins_command", raising(DataError("row 3")))
    monkeypatch.setenv("RANK", "1")
    assert run("plugins") == (3, "", "")


def test_debugging_shows_where_our_errors_come_from(monkeypatch):
    monkeypatch.setattr("metaformer.commands.plugins.plugins_command", raising(DataError("row 3")))
    monkeypatch.setattr(sys, "argv", ["metaformer", "plugins"])
    monkeypatch.setenv("METAFORMER_DEBUG", "1")
    with pytest.raises(DataError):
        cli.main()


def test_an_unexpected_error_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("metaformer.commands.plugins.plugins_command", raising(ZeroDivisionError()))
    monkeypatch.setattr(sys, "argv", ["metaformer", "plugins"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_an_interrupt_exits_130(run, monkeypatch):
    monkeypatch.setattr("metaformer.commands.plugins.plugins_command", raising(KeyboardInterrupt()))
    assert run("plugins")[0] == 130


def test_doctor_reports_the_core_and_what_is_broken(run, tmp_path, monkeypatch):
    code, out, _ = run("doctor")
    assert code == 0
    assert re.search(rf"ok +metaformer +{re.escape(__version__)}", out)
    info = tmp_path / "h1_doctor-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: h1-doctor\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text("[metaformer]\nd = h1_no_such_doctor\n")
    monkeypatch.syspath_prepend(tmp_path)
    (fault,) = (f for f in doctor.examine(Registry.discover({})) if f.state == "fault")
    assert (fault.subject, "pip install" in fault.do) == ("h1-doctor", True)


def test_doctor_names_the_package_of_a_missing_library(monkeypatch):
    monkeypatch.setattr(doctor, "OPEN3D_LIBRARIES", {"libc.so.6": "libc6", "libh1absent.so.9": "libh1absent9"})
    monkeypatch.setattr(doctor, "version_of", lambda name: "1.0")
    found = [f for f in doctor.examine(Registry.discover({})) if f.subject == "open3d"]
    assert [(f.state, f.do) for f in found] == [("note", "apt-get install -y libh1absent9")]


def test_doctor_knows_the_tested_set():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for name, version in doctor.TESTED.items():
        assert f"{pins[canonical(name)]}.".startswith(f"{version}."), name
