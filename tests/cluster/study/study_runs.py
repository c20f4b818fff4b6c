"""Small run directories, written as runs write them: 2 labels, 10 test clips, 10 val clips.

Test clips 0-3 are of a group that train never shows, 4-9 of one that it does. Even clips are "a".
"""

import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from calibrate.metrics import evaluate
from calibrate.predictions import Prediction, write_predictions
from cluster.config.recipe import RunConfig
from cluster.run_dir import RunDir
from cluster.study.results import StudyInfo, StudyResults, study_results
from cluster.study.seed_runs import SeedRun, read_seed
from wire.config import validate

STAGES = ("base", "coldstart", "grpo", "calibrated")
SIZES = {"train": 4, "val": 10, "cal": 2, "test": 10}
NAMES = ("a", "b")


def write_data(folder: Path) -> Path:
    """A manifest over empty clips."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clip.mp4").touch()
    rows = [
        {
            "id": f"{split}-{index}",
            "video": "clip.mp4",
            "label": NAMES[index % 2],
            "split": split,
            "trace": "<think>x</think><answer>a</answer>" if split == "train" else None,
            "known": split in ("train", "cal") or index >= 4,
        }
        for split, size in SIZES.items()
        for index in range(size)
    ]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def make_run(path: Path, seed: int = 1, **changes: Any) -> RunDir:
    """A run that has started."""
    manifest = write_data(path.parent / "data")
    values = {
        "model": "model",
        "labels": [{"name": name} for name in NAMES],
        "data": {"manifest": str(manifest)},
        "seed": seed,
        "grpo": {"num_steps": 5, "groups_per_step": 3},
        "rollout": {"group_size": 2},
    }
    config = validate(RunConfig, values | changes, "recipe")
    run = RunDir.open(path, config, resume=False, overwrite=False)
    run.archive.mkdir()
    run.close()
    return run


def write_arm(
    run: RunDir,
    arm: str,
    *,
    wrong: Collection[int] = (),
    confidence: float = 0.9,
    unsure: Collection[int] = (),
    with_probabilities: bool = False,
    answer: str = "a",
    **result: Any,
) -> None:
    """A finished arm that is wrong about these clips; 0.6 sure of the ``unsure`` ones."""
    split = result.setdefault("split", "test")
    predictions = []
    for index in range(SIZES[split]):
        place = (index + (index in wrong)) % 2
        sure = 0.6 if index in unsure else confidence
        predictions.append(
            Prediction(
                sample_id=f"{split}-{index}",
                label=NAMES[index % 2],
                predicted=NAMES[place],
                confidence=sure,
                probabilities=(sure, 1 - sure)[:: 1 if place == 0 else -1]
                if with_probabilities
                else None,
                trace=f"<think>x</think><answer>{answer}</answer>",
            )
        )
    write_predictions(run.predictions(arm), predictions)
    evaluation = asdict(evaluate(predictions, NAMES, ["a"]))
    result = {"evaluation": evaluation, "seconds": 2.0, "peak_memory_gb": 1.5, **result}
    if arm == "calibrated":
        result["verdict"] = result.pop("evaluation")
    run.finish(arm, result)


def make_about(*seeds: int, **changes: Any) -> StudyInfo:
    """What a study of these seeds says of itself."""
    values: dict[str, Any] = {
        "recipe": "recipes/x.toml",
        "command": "deepintuit study recipes/x.toml",
        "cores": 2,
        "seconds": 3700.0,
        "seeds": seeds or (1,),
        "failed": {},
        "group_by": "known",
    }
    return StudyInfo(**values | changes)


def results_of(*runs: RunDir, notes: dict[str, str] | None = None, **about: Any) -> StudyResults:
    """The results of runs whose seeds are 1, 2, ..."""
    facts = make_about(*range(1, len(runs) + 1), **about)
    found = [read_run(run, seed, facts.group_by) for seed, run in enumerate(runs, start=1)]
    return study_results(facts, found, notes or {})


def read_run(run: RunDir, seed: int = 1, group_by: str | None = "known") -> SeedRun:
    """The files of a run that has started."""
    found = read_seed(run.path, seed, group_by)
    assert found is not None
    return found
