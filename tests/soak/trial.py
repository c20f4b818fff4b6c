"""Trial of a soak: a run that is killed at for some minutes, and one that nothing disturbs.

cold start (once) -> GRPO under kills, for the minutes -> the last step's policy measured
                  -> GRPO undisturbed, of as many steps -> measured
                                                                            (No test file.)
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.demo.clips import make_demo_data
from cluster.demo.make_model import make_demo_model
from tests.benchmarks.figures import say
from tests.end_to_end.runs import LABELS, ROOT, summary, write_recipe
from tests.faults.finished_run import step_rows
from tests.soak.flatness import Sample, sample
from tests.soak.kills import Killer, drawn_kills

GROUPS, STALENESS = 8, 1
_TICK_S, _SAMPLE_S, _START_S, _END_S = 0.5, 5.0, 600.0, 300.0
_ENDLESS = 100_000
_REWARD = '''
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """Never 0: a zero in the archive would be one that a failure was taken for."""
    return 1.0 + (f"<answer>{ground_truth}</answer>" in solution_str)
'''


@dataclass(frozen=True, kw_only=True)
class Size:
    """Size of a trial."""

    minutes: float
    mean_s: float
    """Between kills."""
    workers: int
    clips: int
    coldstart_epochs: int
    is_short: bool


@dataclass(kw_only=True)
class Disturbed:
    """What became of the run that was killed at."""

    samples: list[Sample] = field(default_factory=list)
    seconds: float = 0.0
    """From its first step to the end of the minutes."""
    num_hit: int = 0
    num_spared: int = 0
    num_ends: int = 0
    """Times that the run ended by itself: each kill should be healed within it."""


class Trial:
    """Runs of a soak, in one folder."""

    def __init__(self, folder: Path, size: Size, seed: int) -> None:
        self._folder, self.size, self._seed = folder, size, seed
        self.killed, self.calm = folder / "killed", folder / "calm"

    def prepare(self) -> None:
        """Model, clips, and a cold start that both runs begin with."""
        folder, clips = self._folder, self.size.clips
        make_demo_model(folder / "model")
        manifest = make_demo_data(
            folder / "data", train=clips, traces=clips * 3 // 4, val=2, cal=2, test=clips
        )
        write_recipe(folder, folder / "model", manifest, LABELS)
        (folder / "right.py").write_text(_REWARD)
        self._until_done("coldstart", folder / "cold")
        for out in (self.killed, self.calm):
            shutil.copytree(folder / "cold", out)

    def disturb(self) -> Disturbed:
        """GRPO under kills for the minutes; then the policy of the last step is measured."""
        size, result = self.size, Disturbed()
        end = time.monotonic() + _START_S + 60 * size.minutes
        began: float | None = None
        killer: Killer | None = None
        while began is None or time.monotonic() < began + 60 * size.minutes:
            driver = self._start("grpo", self.killed, _ENDLESS)
            try:
                self._await_step(driver, end)
                began = began or time.monotonic()
                kills = drawn_kills(self._seed, size.mean_s)
                killer = killer or Killer(self.killed, kills, say)
                self._watch(driver, began, killer, result)
            finally:
                _interrupt(driver)
        assert killer is not None
        result.num_hit, result.num_spared = killer.num_hit, killer.num_spared
        result.seconds = time.monotonic() - began
        last = step_rows(self.killed)[-1]["step"]
        self._until_done("grpo", self.killed, last)
        return result

    def _await_step(self, driver: "subprocess.Popen[bytes]", end: float) -> None:
        while not _has_stepped(self.killed):
            assert driver.poll() is None, f"it ended with {driver.returncode}; see {self.log}"
            assert time.monotonic() < end, f"no step within {_START_S:g} s; see {self.log}"
            time.sleep(_TICK_S)

    def _watch(
        self, driver: "subprocess.Popen[bytes]", began: float, killer: Killer, result: Disturbed
    ) -> None:
        """Kill and sample until the minutes are over or the run ends."""
        sampled = 0.0
        while time.monotonic() < began + 60 * self.size.minutes:
            if driver.poll() is not None:
                result.num_ends += 1
                say(f"the run ended with {driver.returncode}; see {self.log}")
                return
            killer.tick(driver.pid)
            if time.monotonic() > sampled + _SAMPLE_S and (one := sample(driver.pid)):
                sampled = time.monotonic()
                result.samples.append(one)
            time.sleep(_TICK_S)

    def calm_down(self, steps: int) -> None:
        """GRPO of as many steps, undisturbed, and measured."""
        self._until_done("grpo", self.calm, steps)

    @property
    def log(self) -> Path:
        """What the runs printed."""
        return self._folder / "log.txt"

    def _until_done(self, verb: str, out: Path, steps: int = 1) -> None:
        driver = self._start(verb, out, steps)
        try:
            code = driver.wait(120 + 120 * self.size.minutes + _START_S)
        finally:
            _interrupt(driver)
        assert code == 0, f"{verb} ended with {code}; see {self.log}"

    def _start(self, verb: str, out: Path, steps: int) -> "subprocess.Popen[bytes]":
        size = self.size
        reward = f"reward.terms=[{{function='{self._folder / 'right.py'}:compute_score'}}]"
        settings = [
            f"grpo.num_steps={steps}",
            f"grpo.groups_per_step={GROUPS}",
            f"grpo.groups_per_update={GROUPS}",
            f"grpo.max_staleness={STALENESS}",
            "grpo.save_every=5",
            # thousands of steps, most without signal: at 1e-4 a rare one can cost a whole label
            "grpo.optim.learning_rate=2e-5",
            f"coldstart.epochs={size.coldstart_epochs}",
            f"rollout.num_workers={size.workers}",
            "rollout.num_cpus=0.2",
            "rollout.group_size=8",
            "rollout.max_response_length=40",
            "learner.num_cpus=0.2",
            "learner.max_restarts=1000",
            "fleet_health.max_restart_attempts=1000",
            "fleet_health.max_restarts_per_hour=1000",
            "fleet_health.probe_interval_s=2",
            "fleet_health.unhealthy_threshold=2",
            reward,
        ]
        words = [sys.executable, "-m", "cluster.cli", verb, str(self._folder / "recipe.toml")]
        words += ["--run-dir", str(out), *(["--resume"] if out.exists() else [])]
        words += [word for setting in settings for word in ("--set", setting)]
        env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        with self.log.open("a") as log:
            return subprocess.Popen(words, cwd=ROOT, env=env, stdout=log, stderr=log)


def _has_stepped(run_dir: Path) -> bool:
    return (run_dir / "metrics.jsonl").exists() and bool(step_rows(run_dir))


def _interrupt(driver: "subprocess.Popen[bytes]") -> None:
    if driver.poll() is None:
        driver.send_signal(signal.SIGINT)
        driver.wait(_END_S)


def accuracy(run_dir: Path) -> tuple[float, Sequence[float]]:
    """Accuracy of GRPO's policy on the clips that are measured, and its 95% interval."""
    stage = next(s for s in summary(run_dir)["stages"] if s["name"] == "grpo")
    return stage["accuracy"], stage["accuracy_ci"]


def seconds_per_step(run_dir: Path) -> float:
    """Of a run that nothing disturbed: mean over its steps but the first."""
    rows = step_rows(run_dir)[1:]
    return sum(row["timing_s/step"] for row in rows) / max(1, len(rows))
