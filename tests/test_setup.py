"""The set-up: pins that hold what the distributions promise, and a script that works once and then rests."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
PROJECTS = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"==[\w.]+", str(requirement.specifier)) for requirement in requirements)
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in requirements}


def requirements(file: Path) -> list[Requirement]:
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    project = table["project"]
    lines = [*project.get("dependencies", []), *table["build-system"]["requires"]]
    lines += [line for extra in project.get("optional-dependencies", {}).values() for line in extra]
    lines += [line for group in table.get("dependency-groups", {}).values() for line in group if isinstance(line, str)]
    return [Requirement(line) for line in lines if not line.startswith("metaformer")]


@pytest.mark.parametrize("file", PROJECTS, ids=lambda file: file.parent.name)
def test_every_requirement_is_pinned_within_its_range(file: Path) -> None:
    pinned = pins()
    for requirement in requirements(file):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} has no pin: make pins"
        assert requirement.specifier.contains(pinned[name], prereleases=True), f"{requirement} excludes its pin"


def test_the_pins_are_complete() -> None:
    """Everything a pinned and installed distribution needs is pinned as well, within the range it asks for."""
    pinned = pins()
    for name in pinned:
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # another platform, or a later modality
            continue
        for requirement in map(Requirement, needs):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                version = pinned.get(canonicalize_name(requirement.name))
                assert version is not None, f"{name} needs {requirement.name}, which is not pinned"
                assert requirement.specifier.contains(version, prereleases=True), f"{name} excludes {version}"


def test_what_is_installed_is_what_is_pinned() -> None:
    """Installing the core and all plugins under the constraints changes none of the tested set."""
    installed = {}
    for name in pins().keys() - {"setuptools", "uv"}:  # the tools of installing, which no run uses
        try:
            installed[name] = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    assert installed == {name: pins()[name] for name in installed}
    assert {"torch", "torchvision", "deepspeed", "timm", "transformers"} <= installed.keys()


def test_no_file_of_the_setup_names_a_host_or_a_machine() -> None:
    for name in (
        "constraints.txt",
        "Makefile",
        "scripts/setup.sh",
        "scripts/pin.py",
        ".ci/run",
        ".pre-commit-config.yaml",
    ):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "://" not in text, name
        assert "index-url" not in text.replace("--no-emit-index-url", ""), name
        assert not re.search(r"/(home|root|work|tmp)/", text), name


def test_precommit_runs_what_ci_runs() -> None:
    (repo,) = YAML(typ="safe").load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"
    commands = [hook["entry"].split() for hook in repo["hooks"]]
    assert {tuple(command) for command in commands} == {("make", "check"), ("make", "test")}
    assert "exec make test" in (ROOT / ".ci/run").read_text()
    assert os.access(ROOT / ".ci/run", os.X_OK)
    planned = subprocess.run(["make", "-n", "test"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for step in ("setup.sh", "ruff check", "ruff format --check", "mypy", "pytest"):
        assert step in planned


# A stranger's machine: real files and real checks, but an interpreter, an installer and apt-get that only write down
# what they were asked. The interpreter passes everything it does not know on to the real one.
PYTHON = """\
#!/usr/bin/env bash
printf '%s\\n' "python $*" >> "$LOG"
case "$*" in
    *"import ensurepip"*) [ -z "${NO_VENV:-}" ] ;;
    "-m venv .venv")
        mkdir -p .venv/bin
        cp "$0" .venv/bin/python
        echo "VIRTUAL_ENV=$PWD/.venv" > .venv/bin/activate
        touch .venv/pyvenv.cfg ;;
    "-m pip install"*uv)
        printf '#!/usr/bin/env bash\\nprintf "%%s\\\\n" "uv $*" >> "$LOG"\\n[ -z "${NO_UV:-}" ]\\n' > .venv/bin/uv
        chmod +x .venv/bin/uv ;;
    "-m pip install"*) [ -z "${NO_PIP:-}" ] ;;
    "-m pip"*) ;;
    *) exec "$REAL" "$@" ;;
esac
"""


class Machine:
    """A copy of the set-up in a folder with a space in its name, and the stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.root, self.log = folder / "a clone", folder / "log"
        plugin = self.root / "plugins" / "metaformer-plugin-x"
        for directory in (self.root / "scripts", plugin, folder / "bin"):
            directory.mkdir(parents=True)
        shutil.copy(ROOT / "scripts/setup.sh", self.root / "scripts")
        (self.root / "constraints.txt").write_text("a==1\n")
        (self.root / "pyproject.toml").write_text('[project]\nname = "a"\n')
        (plugin / "pyproject.toml").write_text('[project.optional-dependencies]\nsamples = ["b"]\nother = []\n')
        self.bin = folder / "bin"
        self.command("python3.11", PYTHON)
        self.command("python3", "#!/bin/sh\necho Python 3.9.1 >&2\nexit 1\n")
        self.command("apt-get", '#!/bin/sh\necho "apt-get $*" >> "$LOG"\nexit 1\n')
        self.command("sudo", "#!/bin/sh\nexit 1\n")

    def command(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def setup(self, **environment: str) -> tuple[int, str, str]:
        """Exit code, output, and what the stand-ins were asked."""
        self.log.write_text("")
        base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
        variables = {"PATH": f"{self.bin}:/usr/bin:/bin", "LOG": str(self.log), "REAL": str(base), **environment}
        run = subprocess.run(
            ["bash", "scripts/setup.sh"], cwd=self.root, env=variables, capture_output=True, text=True, timeout=60
        )
        return run.returncode, run.stdout + run.stderr, self.log.read_text()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_setup_installs_everything_once(machine: Machine) -> None:
    code, output, log = machine.setup()
    assert code == 0, output
    assert "-m venv .venv" in log
    (install,) = [line for line in log.splitlines() if line.startswith("uv ")]
    assert "-c constraints.txt" in install
    assert "-e ./. " in install
    assert "-e ./plugins/metaformer-plugin-x[samples,other]" in install
    assert machine.setup() == (0, "", ""), "the second call did something"


@pytest.mark.parametrize("changed", ["constraints.txt", "pyproject.toml", "plugins/metaformer-plugin-x/pyproject.toml"])
def test_setup_installs_again_after_a_change(machine: Machine, changed: str) -> None:
    machine.setup()
    with (machine.root / changed).open("a") as file:
        file.write("\n# changed\n")
    code, _, log = machine.setup()
    assert code == 0
    assert "uv pip install" in log
    assert "-m venv" not in log, "a change of pins needs no new environment"
    assert machine.setup()[2] == ""


def test_setup_notices_a_moved_clone_and_a_lost_environment(machine: Machine) -> None:
    machine.setup()
    machine.root = machine.root.rename(machine.root.with_name("moved"))
    assert "-m venv .venv" in machine.setup()[2]
    shutil.rmtree(machine.root / ".venv")
    assert "-m venv .venv" in machine.setup()[2]


def test_a_failed_install_is_tried_again(machine: Machine) -> None:
    code, output, log = machine.setup(NO_UV="1", NO_PIP="1")
    assert code == 1
    assert "the installation failed" in output
    assert log.count("pip install") >= 3, "pip was not tried after uv"
    assert not (machine.root / ".venv/setup.stamp").exists()
    assert machine.setup(NO_UV="1")[0] == 0, "pip can do it without uv"


def test_missing_tools_are_named_with_the_command(machine: Machine) -> None:
    code, output, log = machine.setup(NO_VENV="1")
    assert code == 1
    assert "apt-get install python3-venv" in output
    assert ("apt-get install" in log) == (os.getuid() == 0), "packages are installed exactly where that is allowed"
    assert not (machine.root / ".venv").exists()
    (machine.bin / "python3.11").write_text("#!/bin/sh\nexit 1\n")
    code, output, _ = machine.setup()
    assert code == 1
    assert "Python 3.11 or newer" in output
    assert "Python 3.9.1" in output
    assert "PYTHON=" in output


def test_the_interpreter_can_be_chosen(machine: Machine) -> None:
    (machine.bin / "python3.11").rename(machine.bin / "my python")
    code, output, _ = machine.setup(PYTHON=str(machine.bin / "my"))
    assert code == 1, "another interpreter was taken instead"
    assert "3.11 or newer" in output
    assert machine.setup(PYTHON=str(machine.bin / "my python"))[0] == 0
    assert machine.setup() == (0, "", ""), "an environment that is there is kept"
    assert (machine.root / ".venv/pyvenv.cfg").exists()


def test_absent_system_libraries_do_not_stop_the_setup(machine: Machine) -> None:
    """With an interpreter that can load no shared library, and an apt-get that fails."""
    known = '    *) exec "$REAL"'
    assert known in PYTHON
    machine.command("python3.11", PYTHON.replace(known, f'    -) exec "$REAL" -c "$BLIND" ;;\n{known}'))
    code = "import ctypes, sys\nctypes.CDLL = lambda name: open('/absent/' + name)\nexec(sys.stdin.read())"
    status, output, _ = machine.setup(BLIND=code)
    assert status == 0, output
    assert "apt-get install -y libusb-1.0-0 libgl1 libegl1 libx11-6" in output


def test_setup_leaves_a_strangers_folder_alone(machine: Machine) -> None:
    (machine.root / ".venv").mkdir()
    (machine.root / ".venv" / "mine").touch()
    code, output, _ = machine.setup()
    assert code == 1
    assert "move it away" in output
    assert (machine.root / ".venv" / "mine").exists()
