"""A learner of one rank that trains a LoRA verdict on a policy that was trained whole. (No test
file; run with -m in a process of its own, because DeepSpeed's ranks stay joined.)

    FOLDER/stages/grpo/model -> FOLDER/stages/calibrated/{model,adapter}, FOLDER/learner.json
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from learner.config import GrpoLossConfig, LearnerConfig, LoraConfig, OptimConfig
from learner.ranks.rendezvous import open_rendezvous
from learner.shared_prefix.rows import Row, StepCounts
from learner.worker import LearnerWorker
from tests.learner.builders import RandomClips, make_row
from tests.tiny_models import write_tiny_model
from video.cache import ClipStore

RATE = 1e-2


class Clips(RandomClips, ClipStore):
    """Of the type that the worker asks for."""


def rows() -> list[Row]:
    """Two clips with one response each, all of it supervised."""
    made = [make_row(0, (5,)), make_row(1, (3,))]
    return [
        replace(row, responses=tuple(replace(r, advantage=1.0) for r in row.responses))
        for row in made
    ]


def main(folder: Path) -> None:
    policy = write_tiny_model(folder / "stages/grpo/model", "qwen2_5_vl")
    config = LearnerConfig(dtype="float32", embedding_cache=False)
    worker = LearnerWorker(config, GrpoLossConfig(), Clips())
    worker.join(0, "127.0.0.1", open_rendezvous(1))
    worker.begin(str(policy), OptimConfig(learning_rate=RATE), lora=LoraConfig(rank=4, alpha=8))
    before = worker.logprobs(rows())
    for _ in range(3):
        worker.train_step(rows(), StepCounts.of(rows()), "supervised", RATE)
    after = worker.logprobs(rows())
    worker.export(str(folder / "stages/calibrated/model"))
    worker.begin(str(policy), OptimConfig(learning_rate=RATE))  # the next stage: whole weights
    seen = {
        "before": [[list(one) for one in row] for row in before],
        "verdict": [[list(one) for one in row] for row in after],
        "next_stage": [[list(one) for one in row] for row in worker.logprobs(rows())],
        "next_stage_has_adapter": worker.adapter() is not None,
    }
    (folder / "learner.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
