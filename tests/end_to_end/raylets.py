"""A Ray of several nodes on this machine, with tokens, as operators start it. (No test file.)"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.end_to_end.runs import ROOT

RAY = Path(sys.executable).parent / "ray"
LOOK = """
import json, ray
ray.init(address="auto", log_to_driver=False, logging_level="error")
groups = [g["state"] for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"]
print(json.dumps([ray.cluster_resources(), ray.available_resources(), groups]))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.5)


class Raylets:
    """A head, and nodes that joined it, each of a `ray start --block` of its own."""

    def __init__(self, folder: Path) -> None:
        port, dashboard = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        around = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.env = around | {
            "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",  # a job's ``python``
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
            "RAY_worker_niceness": "0",
        }
        self._folder, self._nodes = folder, list[subprocess.Popen[bytes]]()
        self._head = ("--head", f"--port={port}", f"--dashboard-port={dashboard}")

    def start_all(self, num_joined: int) -> None:
        """Start the head and the nodes that join it, of one CPU each."""
        self.start(*self._head, "--num-cpus=1")
        self.wait_for_node(0)
        for number in range(1, num_joined + 1):
            self.start("--num-cpus=1")
            self.wait_for_node(number)
        wait_for(self.answers, 240, "the job server of the head")

    def start(self, *words: str) -> None:
        """Start a node; without ``--head`` it joins."""
        join = () if "--head" in words else (f"--address={self.address}",)
        agent = f"--dashboard-agent-listen-port={free_port()}"
        client = (f"--ray-client-server-port={free_port()}",) if "--head" in words else ()
        command = [RAY, "start", "--block", "--node-ip-address=127.0.0.1", *join, *client, agent]
        command += [f"--temp-dir={self._folder}", "--disable-usage-stats", *words]
        with (self._folder / f"node-{len(self._nodes)}.log").open("wb") as log:
            node = subprocess.Popen(
                [*map(str, command)], env=self.env, stdout=log, stderr=log, start_new_session=True
            )
        self._nodes.append(node)

    def answers(self) -> bool:
        """Whether the job server answers who has the token."""
        return self.ray("job", "list").returncode == 0

    def wait_for_node(self, number: int) -> None:
        """Wait until a node is up: `ray start` says so."""
        log = self._folder / f"node-{number}.log"

        def is_up() -> bool:
            assert self._nodes[number].poll() is None, log.read_text()
            return "Ray runtime started" in log.read_text()

        wait_for(is_up, 240, f"node {number} to join")

    def ray(
        self, *words: str, timeout_s: float = 60, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """A command of Ray, with the token."""
        return subprocess.run(
            [str(RAY), *words],
            cwd=ROOT,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def submit(self, job: str, *words: str, wait: bool = False) -> subprocess.CompletedProcess[str]:
        """Submit a command of ours as a job, with the code of the working directory."""
        how = () if wait else ("--no-wait",)
        ours = ("--", "python", "-m", "cluster.cli", *words)
        submit = ("job", "submit", *how, "--submission-id", job, "--working-dir", ".", *ours)
        return self.ray(*submit, timeout_s=500)

    def look(self) -> tuple[dict[str, float], dict[str, float], list[str]]:
        """Resources of all nodes, those of them that nothing holds, and states of the placement
        groups that are there."""
        done = subprocess.run(
            [sys.executable, "-c", LOOK], env=self.env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        total, free, groups = json.loads(done.stdout.splitlines()[-1])
        return total, free, groups

    def processes(self, titles: Sequence[str]) -> list[int]:
        """Processes of these nodes with one of ``titles`` in their title."""
        return [
            process.pid
            for node in self._nodes
            for process in psutil.Process(node.pid).children(recursive=True)
            if any(title in _title(process) for title in titles)
        ]

    def stop(self) -> None:
        """End all nodes, and what they started."""
        below = [
            child
            for node in self._nodes
            if node.poll() is None
            for child in psutil.Process(node.pid).children(recursive=True)
        ]
        for node in reversed(self._nodes):
            node.send_signal(signal.SIGTERM)
        for node in self._nodes:
            node.wait(timeout=60)
        for child in psutil.wait_procs(below, timeout=30)[1]:
            child.kill()


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""  # it ended meanwhile


@contextmanager
def raylets(num_joined: int) -> Iterator[Raylets]:
    """A head and ``num_joined`` nodes, of one CPU each, which end with the block."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: sockets lie there
    nodes = Raylets(folder)
    try:
        nodes.start_all(num_joined)
        yield nodes
    finally:
        nodes.stop()
        shutil.rmtree(folder, ignore_errors=True)
