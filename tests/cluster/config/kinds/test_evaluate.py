"""Stages that measure a policy, by how they ask."""

from typing import Any

import pytest

from cluster.config.kinds.evaluate import EvaluateStage
from tests.cluster.session_fakes import make_config
from wire.errors import ConfigError


def stage(**settings: Any) -> EvaluateStage:
    config = make_config(stages=[{"name": "asked", "kind": "evaluate", **settings}])
    found = config.chain["asked"]
    assert isinstance(found, EvaluateStage)
    return found


@pytest.mark.parametrize(
    ("answer", "writes", "asks_labels", "reads_features"),
    [
        ("trace", True, False, False),
        ("label", False, True, False),
        ("explained", True, True, False),
        ("pooled", False, False, True),
    ],
)
def test_an_answer_decides_which_engines_work(
    answer: str, writes: bool, asks_labels: bool, reads_features: bool
):
    asked = stage(answer=answer)
    assert asked.loads_engines == writes
    assert asked.asks_labels == asks_labels
    assert asked.reads_features == reads_features


def test_pooled_features_are_of_videos_and_of_a_frozen_tower():
    with pytest.raises(ConfigError, match='leave input = "tokens" out'):
        make_config(
            stages=[
                {"name": "vst", "kind": "semantic_tokens"},
                {"name": "p", "kind": "evaluate", "answer": "pooled", "input": "tokens"},
            ]
        )
    with pytest.raises(ConfigError, match="features of a tower that stays as it is"):
        make_config(
            stages=[{"name": "p", "kind": "evaluate", "answer": "pooled"}],
            learner={"dtype": "float32", "freeze_vision_tower": False},
        )
