"""Training across two hosts with the commands of `docs/multi-node.md`: the losses of two ranks on one host, exactly."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.nodes.network import Node, make_keys, make_nodes, require, require_ssh
from tests.test_ranks import BIN, QUICK, ROOT, SMALL, deepspeed, launch

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(1000)]
PAGE = ROOT / "docs" / "multi-node.md"
NAME = "many_modalities"
LONG = ("engine.zero=2", "steps=60", "eval_every=60")
"""Enough steps that a signal sent after the third finds the run under way."""


def blocks(title: str, language: str) -> list[str]:
    """The fenced blocks under a heading of the page."""
    found = re.search(rf"^##+ {re.escape(title)}\n(.*?)(?=^##|\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"{PAGE.name} has no section {title!r}"
    return re.findall(rf"^```{language}\n(.*?)^```$", found[1], re.DOTALL | re.MULTILINE)


def commands(title: str) -> dict[str, list[str]]:
    """The words of the page's commands, by the host that a line's comment names (empty where there is one line)."""
    (block,) = blocks(title, "sh")
    lines = [line.partition("    # on ") for line in block.splitlines()]
    return {host.strip(): shlex.split(command) for command, _, host in lines}


(HOSTS,), (VARIABLES,) = blocks("The hostfile", "text"), blocks("Variables", "text")
NAMES = [line.split()[0] for line in HOSTS.splitlines()]


class Cluster:
    """Two hosts, and a folder that both see."""

    def __init__(self, nodes: list[Node], work: Path) -> None:
        self.nodes, self.work = nodes, work
        exported = dict(line.split("=", 1) for line in VARIABLES.splitlines())
        # HF_HUB_OFFLINE comes from the tests' own settings; the page's variables are those of every host.
        keep = {**os.environ, "PATH": f"{BIN}:/usr/sbin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        self.environment = keep | exported
        # Without the page's variables: what the other host gets must come from .deepspeed_env.
        self.bare = {name: value for name, value in keep.items() if name not in exported}
        (work / "recipes").symlink_to(ROOT / "recipes")
        (work / "hosts").write_text(HOSTS)

    def start(self, title: str, *sets: str) -> list[subprocess.Popen]:
        """Start the commands of a section of the page, made small by `--set`."""
        options = [part for one in (*QUICK, *SMALL, *sets) for part in ("--set", one)]
        lines = commands(title)
        assert all(command[-1] == f"recipes/{NAME}.yaml" for command in lines.values())
        if list(lines) == [""]:
            (self.work / ".deepspeed_env").write_text(VARIABLES)
            lines, environment = {NAMES[0]: lines[""]}, self.bare
        else:
            environment = self.environment
        by_name = {node.name: node for node in self.nodes}
        return [
            by_name[name].start([*command, *options], self.work, environment, self.work / f"{name}.log")
            for name, command in lines.items()
        ]

    def train(self, title: str, *sets: str) -> Path:
        """Run the commands of a section to their end and return the run directory."""
        before = [node.received() for node in self.nodes]
        started = self.start(title, *sets)
        self.wait(started, 280)
        assert [one.returncode for one in started] == [0] * len(started), self.said()
        run = self.run()
        result = json.loads((run / "result.json").read_text())
        # Two ranks that average gradients send one another at least their size, in every step.
        least = 4 * result["this run"]["trained"] * len(curve(run))
        came = [node.received() - old for node, old in zip(self.nodes, before, strict=True)]
        assert min(came) > least, f"{came} bytes crossed the cable, expected {least} each way"
        return run

    def run(self) -> Path:
        """The one run directory."""
        (run,) = (self.work / "runs" / NAME).iterdir()
        return run

    def said(self) -> str:
        """The ends of what the hosts printed."""
        return "\n".join(f"--- {log.name}\n{log.read_text()[-4000:]}" for log in sorted(self.work.glob("*.log")))

    def wait_for_step(self, step: int) -> None:
        """Wait until a run under way has made some steps."""
        deadline = time.monotonic() + 120
        while not any(len(curve(path.parent)) >= step for path in self.work.glob(f"runs/{NAME}/*/metrics.jsonl")):
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)

    def wait(self, started: list[subprocess.Popen], seconds: float) -> None:
        """Wait for commands; that they take no longer is part of what is tested."""
        deadline = time.monotonic() + seconds
        for one in started:
            try:
                one.wait(timeout=max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                pytest.fail(f"not done after {seconds} s\n{self.said()}")


def curve(run: Path) -> list[tuple[int, str]]:
    """Steps and their losses, every bit of them."""
    lines = [line for line in (run / "metrics.jsonl").read_text().splitlines() if line.endswith("}")]
    return [(record["step"], record["loss_hex"]) for record in map(json.loads, lines) if "loss_hex" in record]


@pytest.fixture
def cluster(tmp_path):
    require()
    work, folder = tmp_path / "shared", tmp_path / "network"
    work.mkdir()
    folder.mkdir()
    nodes = make_nodes(NAMES, ["10.77.0.1", "10.77.0.2"], folder)
    try:
        yield Cluster(nodes, work)
    finally:
        for node in nodes:
            node.end()


@pytest.fixture
def ssh_cluster(request):
    require_ssh()
    cluster = request.getfixturevalue("cluster")
    make_keys(NAMES, cluster.nodes[0].folder)
    for node in cluster.nodes:
        node.serve_ssh()
    return cluster


@pytest.fixture(scope="module")
def one_host(tmp_path_factory) -> Callable[..., Path]:
    """Two ranks on one host, the measure of all that follows."""
    kept: dict[tuple[str, ...], Path] = {}

    def train(*sets: str) -> Path:
        if sets not in kept:
            kept[sets] = launch(deepspeed(2), tmp_path_factory.mktemp("one_host"), *sets)
        return kept[sets]

    return train


def test_the_same_command_on_every_host(cluster, one_host):
    run = cluster.train("The same command on every host", "engine.zero=2")
    assert curve(run) == curve(one_host("engine.zero=2"))


def test_one_command_over_ssh(ssh_cluster, one_host):
    run = ssh_cluster.train("One command, over ssh", "engine.zero=3")
    assert curve(run) == curve(one_host("engine.zero=3"))


def test_torchrun(cluster, one_host):
    run = cluster.train("torchrun", "engine.use=torch", "engine.zero=0")
    assert curve(run) == curve(one_host("engine.zero=0"))


def rank_on(node: Node) -> psutil.Process:
    """The process of the one rank on a host: it has a rank, and its parent, the launcher, has none."""
    (rank,) = (p for p in node.processes() if "RANK" in p.environ() and "RANK" not in p.parent().environ())
    return rank


def stopped(cluster: Cluster) -> list[tuple[int, str]]:
    """The curve of a run that must have been stopped and saved."""
    status = json.loads((cluster.run() / "status.json").read_text())
    assert status["state"] == "stopped", f"{status}\n{cluster.said()}"
    part = curve(cluster.run())
    assert 3 <= len(part) < 60
    return part


def go_on(cluster: Cluster) -> list[tuple[int, str]]:
    """The curve after the page's command for going on with two ranks on one host."""
    (command,) = commands("Going on").values()
    log = cluster.work / "resumed.log"
    done = cluster.nodes[0].start(command, cluster.work, cluster.environment, log)
    cluster.wait([done], 280)
    assert done.returncode == 0, cluster.said()
    assert json.loads((cluster.run() / "status.json").read_text())["state"] == "finished"
    return curve(cluster.run())


@pytest.mark.parametrize("whom", ["rank", "launcher"])
def test_a_signal_to_one_host_stops_both_and_the_run_goes_on_elsewhere(cluster, one_host, whom):
    launchers = cluster.start("The same command on every host", *LONG)
    cluster.wait_for_step(3)
    rank = rank_on(cluster.nodes[1])
    (rank if whom == "rank" else rank.parent()).send_signal(signal.SIGTERM)
    cluster.wait(launchers, 30)
    assert all(launcher.returncode for launcher in launchers)
    part = stopped(cluster)
    whole = go_on(cluster)
    assert whole[: len(part)] == part
    assert whole == curve(one_host(*LONG))


def test_a_signal_to_the_ssh_launcher_stops_both_hosts(ssh_cluster, one_host):
    (launcher,) = ssh_cluster.start("One command, over ssh", *LONG)
    ssh_cluster.wait_for_step(3)
    (runner,) = psutil.Process(launcher.pid).children()
    ranks = [rank_on(node) for node in ssh_cluster.nodes]
    runner.send_signal(signal.SIGTERM)
    ssh_cluster.wait([launcher], 30)
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert not alive, ssh_cluster.said()
    part = stopped(ssh_cluster)
    whole = go_on(ssh_cluster)
    assert whole[: len(part)] == part
    assert whole == curve(one_host(*LONG))
