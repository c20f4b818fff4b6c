"""A small run directory with real archive, predictions, metrics and clips. (No test file.)"""

import json
from collections.abc import Sequence
from fractions import Fraction
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from calibrate.predictions import Prediction, write_predictions
from cluster.config.recipe import RunConfig
from cluster.run_dir import RunDir
from rollout.rationales.judge import Judge, Written
from rollout.rationales.rationale import Dropped
from rollout.rationales.rationale_file import rationale_file, write_rationales
from tests.calibrate.classifiers import measured_calibration, published_result
from tests.cluster.study.study_runs import NAMES, make_run, write_arm
from tests.groups import make_completion, make_sample
from tests.groups import make_group as group_of
from video.encode import write_mp4
from wire.archive.archive import Archive
from wire.types import Failure, FailureKind, PolicyVersion, Purpose, Score, Trace, TraceGroup
from wire.whole_file import write_json

FIRST = PolicyVersion(attempt=0, step=1)
BROKEN = Failure(kind=FailureKind.REWARD, culprit="mine.py:score", reason="KeyError: 'x'")
GONE = Failure(kind=FailureKind.DECODE, culprit="clips/7.mp4", reason="moov atom not found")


def write_clip(
    path: Path, seed: int = 0, num_frames: int = 6, *, width: int = 32, height: int = 24
) -> Path:
    """A clip of few pixels at 4 frames per second."""
    shape = (num_frames, height, width, 3)
    frames = np.random.default_rng(seed).integers(0, 255, shape, np.uint8)
    with path.open("wb") as file:
        write_mp4(file, iter(frames), Fraction(4))
    return path


def make_trace(
    answer: str = "a",
    outcome: Score | Failure | None = None,
    text: str | None = None,
    num_tokens: int = 3,
) -> Trace:
    """A trace that answers; right if ``answer`` is "a"."""
    right = float(answer == "a")
    return Trace(
        completion=make_completion(
            text or f"<think>I saw {answer}</think><answer>{answer}</answer>",
            num_tokens=num_tokens,
            version=FIRST,
        ),
        outcome=outcome or Score(total=right + 1.0, parts={"accuracy": right, "format": 1.0}),
    )


def make_group(
    group_id: str,
    traces: Sequence[Trace],
    *,
    sample_id: str = "train-0",
    video: Path | str = "clip.mp4",
    label: str = "a",
    purpose: Purpose = Purpose.TRAIN,
    version: PolicyVersion = FIRST,
    failures: Sequence[Failure] = (),
) -> TraceGroup:
    """A group as a run archives it."""
    return group_of(
        *traces,
        group_id=group_id,
        sample=make_sample(label, id=sample_id, video=str(video)),
        purpose=purpose,
        policy_version=version,
        failures=tuple(failures),
    )


def write_groups(run: RunDir, *groups: TraceGroup, attempt: int = 0, compact: bool = True) -> None:
    """Append, and compact unless the run is to look as if it were still going on."""
    with Archive(run.archive, attempt) as archive:
        for group in groups:
            archive.append(group)
        if compact:
            archive.compact(max(group.policy_version.step for group in groups))


def write_metrics(
    run: RunDir, stage: str, steps: Sequence[int], attempt: int = 0, **values: Any
) -> None:
    """Lines as MetricsLog writes them; a value may be a function of the step."""
    with (run.path / "metrics.jsonl").open("a") as file:
        for step in steps:
            own = {key: one(step) if callable(one) else one for key, one in values.items()}
            line = {"stage": stage, "step": step, "attempt": attempt, "time": 1.7e9 + step, **own}
            file.write(json.dumps(line) + "\n")


def evaluated(
    stage: str, index: int, traces: Sequence[Trace], video: Path | str, **more: Any
) -> TraceGroup:
    """The group that a stage wrote for test clip ``index``."""
    return make_group(
        f"{stage}/evaluation/test-{index}",
        traces,
        sample_id=f"test-{index}",
        video=video,
        label=NAMES[index % 2],
        purpose=Purpose.EVALUATION,
        **more,
    )


def write_run(path: Path, hostile: str | None = None) -> RunDir:
    """A whole run of ten test clips: base never parsed, coldstart wrong on 0-4, grpo on 0-2,
    calibrated on 2 and 5. Test clip 7 failed to decode, one training trace was not scored; the
    metrics of grpo were resumed. ``hostile``: the trace of test clip 2, and the name of a clip."""
    run = make_run(path)
    clips = [write_clip(path / f"clip-{index}.mp4", index) for index in range(3)]
    write_arm(run, "base", wrong=range(10))
    write_arm(run, "coldstart", wrong=range(5))
    write_arm(run, "grpo", wrong=range(3), unsure=(4,))
    plateau = measured_calibration().plateau
    assert plateau is not None
    published = published_result(not_attained=[plateau.explanation])
    write_arm(
        run,
        "calibrated",
        wrong=(2, 5),
        with_probabilities=True,
        unsure=(1,),
        classifier=published,
    )
    write_arm(run, "vote", wrong=(0,), with_probabilities=True)
    write_predictions(
        run.predictions("base"),
        [
            Prediction(
                sample_id=f"test-{index}",
                label=NAMES[index % 2],
                predicted=None,
                confidence=0.0,
                probabilities=None,
                trace=hostile or "it moves",
            )
            for index in range(10)
        ],
    )
    for stage in ("base", "coldstart", "grpo", "calibrated"):
        groups = [
            evaluated(
                stage, index, [make_trace(text=hostile if index == 2 else None)], clips[index % 3]
            )
            for index in range(10)
            if index != 7
        ]
        write_groups(run, *groups, evaluated(stage, 7, [], "gone.mp4", failures=[GONE]))
    write_groups(
        run,
        make_group("grpo/00000001", [make_trace("a"), make_trace("b")], video=clips[0]),
        make_group("grpo/00000002", [make_trace("a"), make_trace("b", BROKEN)], video=clips[1]),
        make_group("grpo/00000003", [make_trace("b"), make_trace("b")], video="gone.mp4"),
    )
    write_metrics(run, "coldstart", range(1, 9), nll=lambda step: 2.0 / step, grad_norm=1.0)
    curves: dict[str, Any] = {
        "reward/mean": lambda step: step / 10,
        "reward/accuracy/mean": 0.5,
        "label/a/accuracy": 0.4,
        "label/b/accuracy": lambda step: step / 10,
        "timing_s/step": 3.0,
        "timing_s/update_actor": 1.0,
        "kl": 0.0,
        "a metric of tomorrow": 7.0,
    }
    write_metrics(run, "grpo", range(1, 7), attempt=0, **curves)
    write_metrics(run, "grpo", range(4, 11), attempt=1, **curves)
    (run.path / "quarantine.jsonl").write_text(
        json.dumps({"video": "gone.mp4", "sample_id": "test-7", "reason": "moov atom not found"})
        + "\n"
    )
    return run


def write_rationale_stage(path: Path, config: RunConfig) -> dict[str, Any]:
    """A finished stage why of the run in ``path``, of six rationales, four of them kept. Returns
    its figures."""
    judge = Judge(config.label_set, list(Dropped), asks_label=True, closing="Classification")
    closings = ("Classification: ",) * 4 + ("",) * 2
    rationales = [
        one
        for closing, label in zip(closings, cycle(config.label_set.names), strict=False)
        for one in judge.judge(
            make_sample(label),
            [Written(f"It </script> goes up.\n{closing}{label}", is_truncated=False)],
            "why/rationale/s",
        )
    ]
    write_rationales(rationale_file(path, "why"), rationales)
    figures = {"task": "rationale", "hint": True, **judge.counts.figures()}
    write_json(path / "stages" / "why" / "done.json", {"rationales": figures, "seconds": 1.0})
    return figures
