"""A run that is written step by step: a real archive, metrics.jsonl, heartbeat and checkpoints, as
a GRPO stage leaves them, without engines. (No test file.)"""

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.config.kinds.grpo import GrpoStage
from cluster.config.recipe import RunConfig
from cluster.fitting.watch_weights import WatchedStage
from cluster.metrics.metrics_log import MetricsLog
from cluster.resume.loop_state import LOOP_FILE, Ancestor, LoopState
from learner.checkpoint import tag_of
from tests.cluster.session_fakes import NAMES, make_config
from tests.groups import VERSION, make_completion, make_group, make_sample
from wire.archive.archive import Archive
from wire.types import PolicyVersion, Purpose, Score, Split, Trace, TraceGroup
from wire.whole_file import write_json

NUM_VAL = 10


def recipe(**changes: Any) -> RunConfig:
    """GRPO alone, validated and saved at every second step."""
    values: dict[str, Any] = {
        "coldstart": {"epochs": 0},
        "grpo": {"num_steps": 8, "groups_per_step": 2, "save_every": 2, "validate": {"every": 2}},
    }
    return make_config(**values | changes)


@dataclass
class ScriptedRun:
    """A run whose attempt and step are what a test says."""

    path: Path
    config: RunConfig = field(default_factory=recipe)
    attempt: int = 0
    ancestors: tuple[Ancestor, ...] = ()

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "run.json", json.loads(self.config.model_dump_json(by_alias=True)))
        self._lock = (self.path / ".lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.beat("running")
        self._archive = Archive(self.path / "archive", self.attempt)
        self._metrics = MetricsLog(self.path, self.attempt, sinks=[])

    def __del__(self) -> None:
        self.die()

    @property
    def stage(self) -> GrpoStage:
        stage = self.config.chain["grpo"]
        assert isinstance(stage, GrpoStage)
        return stage

    @property
    def watched(self) -> WatchedStage:
        return WatchedStage(run=self.path, config=self.config, stage=self.stage)

    def version(self, step: int) -> PolicyVersion:
        first = self.config.chain.first_step("grpo")
        return PolicyVersion(attempt=self.attempt, step=first + step)

    def beat(self, state: str, reason: str = "") -> None:
        """Heartbeat of this process."""
        now = time.time()
        beat = {"state": state, "pid": os.getpid(), "host": socket.gethostname(), "started": now}
        beat |= {"seen": now, "attempt": self.attempt, "resume": "", "folder": "", "work": ["grpo"]}
        write_json(self.path / "status.json", beat | {"reason": reason})

    def append(self, group: TraceGroup) -> None:
        self._archive.append(group)

    def train(self, step: int) -> None:
        """The groups of a step."""
        for index in range(2):
            self.append(
                make_group(
                    answer("undo"),
                    group_id=f"grpo/{2 * step + index:08d}",
                    policy_version=self.version(step),
                )
            )

    def validate(self, step: int, num_right: int, *, ended: bool = True) -> None:
        """The val traces of a version, and once they have ended, their figures."""
        for index in range(NUM_VAL if ended else NUM_VAL - 1):
            sample = make_sample(NAMES[index % 5], id=f"val-{index}", split=Split.VAL)
            wrong = NAMES[(index + 1) % 5]
            self.append(
                make_group(
                    answer(sample.label if index < num_right else wrong),
                    group_id=f"grpo/validation/{step:06d}/{sample.id}",
                    purpose=Purpose.VALIDATION,
                    sample=sample,
                    policy_version=self.version(step),
                )
            )
        if ended:
            self.log(step, {"val/accuracy": num_right / NUM_VAL, "val/num_clips": float(NUM_VAL)})

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._metrics.write("grpo", step, figures)

    def save(self, step: int, *, keep_last: int = 100) -> None:
        """A checkpoint of a step; its weights are a text."""
        here = Ancestor(attempt=self.attempt, until=self.version(step).step)
        state = LoopState(step=step, ancestors=(*self.ancestors, here))
        folder = self.checkpoints / tag_of(step)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        weights = f"weights of {self.version(step)}"
        (folder / "rank-00000-000.safetensors").write_text(weights)
        (folder / LOOP_FILE).write_text(state.to_json())
        files = {
            file.name: {"num_bytes": file.stat().st_size, "sha256": ""} for file in folder.iterdir()
        }
        manifest = {"num_ranks": 1, "zero_stage": 0, "dtype": "float32", "format": 2}
        write_json(folder / "manifest.json", manifest | {"files": files})
        for old in sorted(self.checkpoints.glob("step-*"))[:-keep_last]:
            shutil.rmtree(old)

    def step(self, step: int, num_right: int, **saved: Any) -> None:
        """A step that is trained, saved and validated."""
        self.train(step)
        self.save(step, **saved)
        self.validate(step, num_right)
        self.compact(step)

    def compact(self, step: int) -> None:
        self._archive.compact(self.version(step).step)

    def finish(self) -> None:
        """The process ends in order."""
        self.beat("finished")
        self.die()

    def die(self) -> None:
        """The process is killed."""
        self._archive.close()
        self._metrics.close()
        self._lock.close()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints" / "grpo"

    def resumed(self, step: int) -> "ScriptedRun":
        """The next attempt, that goes on from the checkpoint of a step."""
        for later in self.checkpoints.glob("step-*"):
            if later.name > tag_of(step):
                shutil.rmtree(later)
        ancestors = LoopState.read(self.checkpoints / tag_of(step)).ancestors
        return ScriptedRun(self.path, self.config, self.attempt + 1, ancestors)

    def resumed_from_start(self) -> "ScriptedRun":
        """The next attempt, without a checkpoint to go on from."""
        return ScriptedRun(self.path, self.config, self.attempt + 1)


def answer(label: str, version: PolicyVersion = VERSION) -> Trace:
    text = f"<think>up</think><answer>{label}</answer>"
    completion = make_completion(text, version=version)
    return Trace(completion=completion, outcome=Score(total=1.0, parts={}))
