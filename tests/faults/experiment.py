"""Experiment: one run of a tiny recipe on real engines, with faults, to its end. (No test file.)

    python -m tests.faults.experiment [NAME ...] [--json FILE]

runs rows of the table and prints the time to recover of each beside its limit.
"""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from cluster.demo.clips import make_demo_data
from cluster.demo.make_model import make_demo_model
from tests.benchmarks.figures import Figure, report
from tests.end_to_end.runs import LABELS, ROOT, write_recipe
from tests.faults import victims
from tests.faults.fault import Fault, Witness
from tests.faults.faulty_run import ROOTS
from tests.faults.finished_run import problems_of, step_rows
from tests.faults.healing import healed_at
from tests.faults.table import BY_NAME, FAULTS

GROUPS, STALENESS = 4, 1
_REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return 1.0 + len(solution_str) % 3
"""
"""Never 0, so that a zero is one that a failure was taken for; a tiny model's groups differ."""
_SETTINGS = (
    "grpo.save_every=2",
    f"grpo.max_staleness={STALENESS}",
    "learner.preflight=false",
    "evaluate.split='val'",
)
_OWN_RAY = ("rollout.num_cpus=0.25", "learner.num_cpus=0.25")
_A_NODE_EACH = ("rollout.num_cpus=1", "learner.num_cpus=1")
_STEPS_AFTER = 4
_DISK_MB = 48
_RUN_S = 1500.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a run with faults."""

    run_dir: Path
    steps: int
    exit_codes: Sequence[int]
    """Of each start of the run."""
    log: str
    """What it printed, of all starts."""
    left: Sequence[str]
    """Processes of the run that went on after its end."""

    def witness_of(self, fault: Fault) -> Witness | None:
        """What the injector saw; None: the fault did not happen."""
        return Witness.read(self.run_dir).get(fault.name)

    def recovered_s(self, fault: Fault) -> float | None:
        """Seconds from the fault to its healing: to service or training again; for a run that was
        started anew, to its first step."""
        witness = self.witness_of(fault)
        if witness is None:
            return None
        if fault.healed_by == "resume":
            return self._first_step_of_attempt(1) - witness.time
        at = healed_at(self.run_dir, fault)
        return None if at is None else at - witness.time

    def _first_step_of_attempt(self, attempt: int) -> float:
        rows = step_rows(self.run_dir)
        return min((row["time"] for row in rows if row["attempt"] == attempt), default=math.inf)

    @property
    def problems(self) -> list[str]:
        """All that a finished run must not show."""
        return problems_of(self.run_dir, steps=self.steps, groups=GROUPS, max_staleness=STALENESS)


def make_material(folder: Path) -> Path:
    """Model, clips, reward and recipe of a run of seconds."""
    make_demo_model(folder / "model")
    manifest = make_demo_data(folder / "data", train=16, traces=8, val=1, cal=1, test=2)
    write_recipe(folder, folder / "model", manifest, LABELS)
    (folder / "lengths.py").write_text(_REWARD)
    return folder


def by_run(faults: Sequence[Fault]) -> dict[str, list[Fault]]:
    """Faults by the run that they share."""
    runs: dict[str, list[Fault]] = {}
    for fault in faults:
        runs.setdefault(fault.run or fault.name, []).append(fault)
    return runs


def run_with(faults: Sequence[Fault], material: Path, folder: Path) -> Outcome:
    """Run the recipe with faults; a run that one of them ends is started again."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, log = folder / "faults.json", folder / "log.txt"
    rows.write_text(json.dumps([asdict(fault) for fault in faults]))
    first, steps = faults[0], max(fault.step for fault in faults) + _STEPS_AFTER
    with _disk(first, folder) as disk, _cluster(first) as around:
        around |= {"DEEPINTUIT_CACHE_DIR": str(folder / "cache")}  # its clips are to be decoded
        run_dir = disk / "run"
        words = _words(first, steps, material, run_dir)
        codes = [_start(["tests.faults.faulty_run", str(rows), *words], log, around)]
        if first.healed_by == "resume" and codes[0] != 0:
            (disk / "ballast").unlink(missing_ok=True)
            codes.append(_start(["cluster.cli", *words, "--resume"], log, around))
        left = _left_of(run_dir)
        if disk != folder:
            shutil.copytree(run_dir, folder / "run")
    text = log.read_text(errors="replace")
    return Outcome(run_dir=folder / "run", steps=steps, exit_codes=codes, log=text, left=left)


def _words(fault: Fault, steps: int, material: Path, run_dir: Path) -> list[str]:
    reward = f"reward.terms=[{{function='{material / 'lengths.py'}:compute_score'}}]"
    cpus = _A_NODE_EACH if fault.nodes else _OWN_RAY
    settings = [*_SETTINGS, *cpus, f"grpo.num_steps={steps}", reward, *fault.settings]
    words = ["grpo", str(material / "recipe.toml"), "--run-dir", str(run_dir)]
    return [*words, *(word for setting in settings for word in ("--set", setting))]


def _start(words: Sequence[str], log: Path, around: dict[str, str]) -> int:
    """One start of the run, to its end."""
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | around
    with log.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=ROOT, env=env, stdout=file, stderr=file
        )
        try:
            return process.wait(_RUN_S)
        except BaseException:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            raise


def _left_of(run_dir: Path) -> list[str]:
    """Processes of the run that go on, orphans of those that were killed among them, once they had
    time to end."""
    seen = {pid for witness in Witness.read(run_dir).values() for pid in witness.below}
    deadline = time.monotonic() + 120  # Ray's own agents notice a dead driver after a minute
    while (left := [pid for pid in seen if victims.runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.5)
    return [victims.title_of(psutil.Process(pid)) for pid in left if victims.runs(pid)]


@contextmanager
def _disk(fault: Fault, folder: Path) -> Iterator[Path]:
    """Folder of the run; for a full disk a small file system of its own."""
    if fault.act != "full-disk":
        yield folder
        return
    disk = folder / "disk"
    disk.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MB}m", "none", str(disk)]
    subprocess.run(options, check=True, capture_output=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@contextmanager
def _cluster(fault: Fault) -> Iterator[dict[str, str]]:
    """Environment of the run: of a cluster of raylets on this machine, or none."""
    if not fault.nodes:
        yield {}
        return
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        raylets = []
        for _ in range(1, fault.nodes):
            node = cluster.add_node(num_cpus=1)
            raylets += [info.process.pid for info in node.all_processes["raylet"]]
        yield {"RAY_ADDRESS": cluster.address, ROOTS: json.dumps(raylets)}
    finally:
        cluster.shutdown()


def figures_of(fault: Fault, outcome: Outcome) -> Iterator[Figure]:
    """Rows about one fault."""
    seconds = outcome.recovered_s(fault)
    seen = outcome.witness_of(fault) is not None
    yield Figure(f"{fault.name}: witnessed", float(seen), "times", 1)
    took = math.inf if seconds is None else seconds
    yield Figure(f"{fault.name}: time to recover", took, "s", fault.limit_s, "below")


def main() -> int:
    """Run rows of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BY_NAME))
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SETTING", help="of the recipe"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="folder for the runs")
    options = parser.parse_args()
    asked = [BY_NAME[name] for name in options.names] or FAULTS
    faults = [replace(fault, settings=(*fault.settings, *options.set)) for fault in asked]
    with tempfile.TemporaryDirectory() as made:
        folder = (options.keep or Path(made)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        material = make_material(folder / "material")
        return report(_all(faults, material, folder), options.json)


def _all(faults: Sequence[Fault], material: Path, folder: Path) -> Iterator[Figure]:
    for name, together in by_run(faults).items():
        outcome = run_with(together, material, folder / name.replace(" ", "-"))
        for fault in together:
            yield from figures_of(fault, outcome)
        for problem in outcome.problems:
            sys.stderr.write(f"{name}: {problem}\n")
        yield Figure(f"run of {name}: problems", len(outcome.problems), "count", 0, "below")


if __name__ == "__main__":
    sys.exit(main())
