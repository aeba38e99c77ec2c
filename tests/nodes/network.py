"""Two hosts on one machine: each its own network, host name, processes and mounts, joined by a cable (a veth pair)."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest

LIFETIME = 1200
"""Seconds after which a host ends by itself, whatever became of the test."""
ENTER = ["--net", "--mount", "--uts", "--ipc", "--pid"]
# Runs as the host's first process. What it mounts is seen inside only, and ends with it.
BOOT = """
set -e
mount --bind "$1/etc_hosts" /etc/hosts
[ ! -e /etc/ssh/ssh_config ] || mount --bind "$1/ssh_config" /etc/ssh/ssh_config
[ ! -d ~/.ssh ] || mount -t tmpfs none ~/.ssh
mount -t tmpfs none /run
mkdir /run/sshd
hostname "$2"
ip link set lo up
echo up
exec sleep "$3"
"""
SSHD = """
Port 2222
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
AuthenticationMethods publickey
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
PidFile {folder}/{name}.pid
"""
SSH = """
Host *
  Port 2222
  IdentityFile {folder}/user_key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  StrictHostKeyChecking yes
  BatchMode yes
  ConnectTimeout 10
"""


class Node:
    """One host. All that runs on it ends with its first process."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        # It ends when this process does, however that comes about.
        tied = ["setpriv", "--pdeathsig", "KILL", "unshare", *ENTER, "--fork", "--mount-proc", "--kill-child"]
        self.holder = subprocess.Popen(
            [*tied, "sh", "-c", BOOT, "sh", str(folder), name, str(LIFETIME)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.started: list[subprocess.Popen] = []
        if self.holder.stdout.readline() != "up\n":
            pytest.skip(f"a host of its own cannot be made here: {self.holder.communicate(timeout=10)[1].strip()}")
        (first,) = psutil.Process(self.holder.pid).children()
        self.first = first.pid

    def start(self, command: list[str], work: Path, environment: dict[str, str], log: Path) -> subprocess.Popen:
        """Start a command on this host, in the folder `work`."""
        words = ["nsenter", "--target", str(self.first), *ENTER, "env", f"--chdir={work}", *command]
        with log.open("w") as out:
            started = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.started.append(started)
        return started

    def run(self, *command: str) -> str:
        """What a short command says on this host."""
        words = ["nsenter", "--target", str(self.first), *ENTER, *command]
        return subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout

    def processes(self) -> list[psutil.Process]:
        """What runs on this host now."""
        mine = Path(f"/proc/{self.first}/ns/pid").readlink()
        return [p for p in psutil.process_iter() if _namespace(p.pid) == mine]

    def received(self) -> int:
        """Bytes that have come in over the cable."""
        line = next(row for row in Path(f"/proc/{self.first}/net/dev").read_text().splitlines() if "eth0:" in row)
        return int(line.split(":")[1].split()[0])

    def serve_ssh(self) -> None:
        """Start an sshd with the throw-away keys, and wait until it listens."""
        config = self.folder / f"sshd_{self.name}"
        config.write_text(SSHD.format(folder=self.folder, name=self.name))
        command = [shutil.which("sshd", path="/usr/sbin:/usr/local/sbin"), "-D", "-e", "-f", str(config)]
        log = self.folder / f"sshd_{self.name}.log"
        self.start(command, self.folder, dict(os.environ), log)
        deadline = time.monotonic() + 20
        while "listening" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    def end(self) -> None:
        """End everything on this host; its network goes with it."""
        self.holder.kill()
        self.holder.communicate(timeout=30)
        for started in self.started:
            started.wait(timeout=30)


def _namespace(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink()
    except OSError:  # it has ended, or is the kernel's
        return None


def require() -> None:
    """Skip where hosts cannot be made."""
    if os.geteuid() != 0:
        pytest.skip(f"network namespaces are made by root, this is {getpass.getuser()}")
    packages = {
        "ip": "iproute2",
        "unshare": "util-linux",
        "nsenter": "util-linux",
        "setpriv": "util-linux",
        "hostname": "hostname",
    }
    missing = [f"{tool} (apt-get install {package})" for tool, package in packages.items() if not shutil.which(tool)]
    if missing:
        pytest.skip(f"missing: {', '.join(missing)}")


def require_ssh() -> None:
    """Skip where hosts cannot reach one another over ssh."""
    path = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
    packages = {"sshd": "openssh-server", "ssh": "openssh-client", "pdsh": "pdsh", "pkill": "procps"}
    missing = [
        f"{tool} (apt-get install {package})" for tool, package in packages.items() if not shutil.which(tool, path=path)
    ]
    if missing:
        pytest.skip(f"missing: {', '.join(missing)}")


def make_nodes(names: list[str], addresses: list[str], folder: Path) -> list[Node]:
    """Two hosts that know each other by name, joined by a cable between interfaces called eth0."""
    known = zip(addresses, names, strict=True)
    (folder / "etc_hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for a, n in known))
    (folder / "ssh_config").write_text(SSH.format(folder=folder))
    nodes: list[Node] = []
    try:
        for name in names:
            nodes.append(Node(name, folder))
        first, second = nodes
        first.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        cable = ["nsenter", "--target", str(first.first), "--net"]
        move = ["ip", "link", "set", "eth1", "netns", str(second.first), "name", "eth0"]
        subprocess.run([*cable, *move], check=True, timeout=30)
        for node, address in zip(nodes, addresses, strict=True):
            node.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
            node.run("ip", "link", "set", "eth0", "up")
    except BaseException:
        for node in nodes:
            node.end()
        raise
    return nodes


def make_keys(names: list[str], folder: Path) -> None:
    """Throw-away keys of the hosts and of the user, and the list by which ssh knows the hosts."""
    for name in ("host_key", "user_key"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        subprocess.run(words, check=True, timeout=30)
    key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text("".join(f"[{name}]:2222 {key}" for name in names))
