"""An environment as a stranger has it: plugins get into it by pip alone, as wheels, and never by a path."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path


class Environment:
    """A virtual environment that sees the packages of this one, and a folder in it to work in: what pip does there is
    real, and touches nothing here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self.python = folder / "venv" / "bin" / "python"
        site = self.ask("import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        # addsitedir, because .pth files of the outer environment (editable installs) must count as well.
        outer = sysconfig.get_path("purelib")
        Path(site, "outer.pth").write_text(f"import site; site.addsitedir({outer!r})\n")

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """`python -m` in the folder to work in; `code` is the exit code it must have."""
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(self.python), "-m", *arguments]
        done = subprocess.run(command, cwd=self.work, env=env, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def ask(self, program: str) -> str:
        """What a program prints."""
        done = subprocess.run([str(self.python), "-c", program], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

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
        wheels = self.folder / "wheels" / project.name
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
        subprocess.run(build, cwd=copy, check=True, capture_output=True)
        (wheel,) = wheels.glob("*.whl")
        self.run("pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", str(wheel))

    def uninstall(self, name: str) -> None:
        """By the name of the distribution."""
        self.run("pip", "uninstall", "--quiet", "--yes", name)
