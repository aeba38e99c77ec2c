"""An environment as a stranger has it: plugins get into it by pip alone, as wheels, and never by a path."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution
from pathlib import Path

OUTER = Path(sysconfig.get_path("purelib"))


class Environment:
    """A virtual environment that sees the packages of this one (all of them, or `only` some), and a folder in it to
    work in: what pip does there is real, and touches nothing here."""

    def __init__(self, folder: Path, only: Iterable[Distribution] | None = None) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self.python = folder / "venv" / "bin" / "python"
        self.site = Path(self.ask("import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        if only is None:
            # addsitedir, because .pth files of the outer environment (editable installs) must count as well.
            (self.site / "outer.pth").write_text(f"import site; site.addsitedir({str(OUTER)!r})\n")
            return
        # Links to what each distribution has at the top: pip and Python take them for installed.
        names = {file.parts[0] for distribution in only for file in distribution.files or ()}
        for name in names - {"..", "__pycache__"}:
            (self.site / name).symlink_to(OUTER / name)

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """`python -m` in the folder to work in; `code` is the exit code it must have."""
        done = self._python("-m", *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def ask(self, program: str) -> str:
        """What a program prints."""
        done = self._python("-c", program)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(self.python), *arguments]
        return subprocess.run(command, cwd=self.work, env=env, capture_output=True, text=True)

    def metaformer(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """The command."""
        return self.run("metaformer", *arguments, code=code)

    def plugins(self) -> dict[str, list[dict[str, str]]]:
        """What `metaformer plugins` finds."""
        return json.loads(self.metaformer("plugins", "--json").stdout)

    def install(self, project: Path) -> None:
        """Build a wheel of a project's folder, which stays as it is, and install it from the wheel."""
        copy = self.folder / "source" / project.name
        if copy != project:
            shutil.copytree(project, copy)
        wheel = build_wheel(copy, self.folder / "wheels" / project.name)
        self.run("pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", str(wheel))

    def uninstall(self, name: str) -> None:
        """By the name of the distribution."""
        self.run("pip", "uninstall", "--quiet", "--yes", name)


def build_wheel(project: Path, folder: Path) -> Path:
    """The wheel of a project, in a folder that had none; without network, because hatchling is here."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=project, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel
