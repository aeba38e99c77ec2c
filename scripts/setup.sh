#!/usr/bin/env bash
# Make .venv: the pinned set, the core and every plugin, editable. Ends at once when nothing has changed since.
#
# PYTHON   the interpreter to make .venv with, when it is made; default: the first of python3.11 and python3
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

# What .venv is made from. The folder is a part of it, because an environment does not survive being moved.
fingerprint() {
    {
        printf '%s\n' "$PWD"
        for file in constraints.txt pyproject.toml plugins/*/pyproject.toml scripts/setup.sh; do
            # A glob that matched nothing stays as it is.
            [ -f "$file" ] && printf '%s\n' "$file" && cat "$file"
        done
    } | cksum
}

is_current() {
    [ -x .venv/bin/python ] && [ -f .venv/setup.stamp ] && [ "$(cat .venv/setup.stamp)" = "$(fingerprint)" ]
}

# The interpreter for .venv; where that is the one inside it (an activated shell), the one behind that.
find_python() {
    local candidate found
    if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3.11 python3; fi
    for candidate in "$@"; do
        found=$("$candidate" - "$candidate" 2>/dev/null <<'PYTHON'
import os
import sys

if sys.version_info >= (3, 11):
    print(sys.argv[1] if sys.prefix == sys.base_prefix else os.path.realpath(sys.executable))
PYTHON
        ) || true
        [ -n "$found" ] && printf '%s\n' "$found" && return
    done
    fail "asked: Python 3.11 or newer as ${PYTHON:-python3}" \
        "found: $("${PYTHON:-python3}" --version 2>&1 || true)" \
        "do:    apt-get install python3 python3-venv, or make PYTHON=/path/to/python3.11 ..."
}

# apt-get where we may, else nothing.
install_packages() {
    local as=""
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || return 1
        as="sudo -n"
    fi
    say "apt-get install $*"
    local install="$as env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends"
    # Package lists are absent on a fresh machine and stale on an old one: fetch them only if that is so.
    $install "$@" >/dev/null 2>&1 || { $as apt-get update -qq && $install "$@" >/dev/null; }
}

check_venv_module() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null && return
    install_packages python3-venv || true
    "$1" -c 'import ensurepip, venv' 2>/dev/null && return
    fail "asked: an environment in .venv" \
        "found: $1 has no venv and ensurepip; Debian keeps them in a package of their own" \
        "do:    sudo apt-get update && sudo apt-get install python3-venv, then make again"
}

# Shared libraries that open3d (point clouds) links against. Nothing else needs them: absent ones stop nothing.
check_libraries() {
    [ "$(uname -s)" = Linux ] || return 0
    local missing
    missing=$("$1" - <<'PYTHON'
import ctypes

packages = {
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libX11.so.6": "libx11-6",
}
for library, package in packages.items():
    try:
        ctypes.CDLL(library)
    except OSError:
        print(package, end=" ")
PYTHON
    )
    # Several words: one per package.
    # shellcheck disable=SC2086
    if [ -n "$missing" ] && ! install_packages $missing; then
        say "open3d (point clouds) lacks system libraries that may not be installed from here; the rest works."
        say "    sudo apt-get update && sudo apt-get install -y $missing"
    fi
}

# The core and the plugins with all their extras, as arguments: -e ./FOLDER[extra,extra]
distributions() {
    .venv/bin/python - <<'PYTHON'
import tomllib
from pathlib import Path

for file in [Path("pyproject.toml"), *sorted(Path("plugins").glob("*/pyproject.toml"))]:
    extras = tomllib.loads(file.read_text(encoding="utf-8"))["project"].get("optional-dependencies", {})
    print("-e", f"./{file.parent.as_posix()}" + (f"[{','.join(extras)}]" if extras else ""), sep="\n")
PYTHON
}

install_distributions() {
    local -a what=(-c constraints.txt --group pyproject.toml:dev)
    local line
    while IFS= read -r line; do what+=("$line"); done < <(distributions)
    # open3d-cpu is open3d at three quarters of its size; it exists for this architecture only.
    if [ "$(uname -s) $(uname -m)" = "Linux x86_64" ]; then what+=(open3d-cpu); fi
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv \
        && .venv/bin/uv pip install --python .venv/bin/python "${what[@]}" && return
    say "uv could not; trying pip, which takes several minutes"
    .venv/bin/python -m pip install --quiet --upgrade pip
    .venv/bin/python -m pip install --quiet "${what[@]}"
}

# torchmultimodal, which parity tests compare with: its own pins do not fit the tested set, and what is used of it needs
# none of them. Those tests are skipped without it.
install_oracles() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
        torchmultimodal-nightly==2024.4.1 iopath==0.1.10 portalocker==4.4.2 \
        || say "torchmultimodal is not to be had; the tests that compare with it will be skipped"
}

main() {
    is_current && return
    # Two calls at once: the second waits, and finds the work done.
    if command -v flock >/dev/null; then
        exec 9<scripts/setup.sh
        flock 9
        is_current && return
    fi
    local python
    python=$(find_python)
    check_venv_module "$python"
    if [ -e .venv ] && [ ! -f .venv/pyvenv.cfg ]; then
        fail "asked: an environment in .venv" "found: something else of that name" "do:    move it away"
    fi
    rm -f .venv/setup.stamp
    if ! .venv/bin/python -c "" 2>/dev/null || ! grep -qF "$PWD/.venv" .venv/bin/activate; then
        say "making .venv with $("$python" --version)"
        rm -rf .venv
        "$python" -m venv .venv
    fi
    .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null
    check_libraries .venv/bin/python
    say "installing the pinned set: some minutes and 5 GB the first time"
    install_distributions || fail "asked: the distributions of constraints.txt in .venv" \
        "found: the installation failed, see above" "do:    check network and disk space, then make again"
    install_oracles
    fingerprint >.venv/setup.stamp
    say "done"
}

main
