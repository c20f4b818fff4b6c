import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reward.config import RewardConfig, RewardTerm
from reward.scorer import Scorer
from tests.groups import make_completion
from wire.errors import ConfigError
from wire.labels import Label, LabelSet
from wire.types import (
    Completion,
    Failure,
    FailureKind,
    PolicyVersion,
    Sample,
    Score,
    Split,
)

LABELS = LabelSet(labels=(Label(name="abnormal"), Label(name="normal")))
SAMPLE = Sample(
    id="train-1", video="a.mp4", label="normal", split=Split.TRAIN, extra={"data_source": "home"}
)
GOOD = "<think>x</think><answer>normal</answer>"
PLUGIN = """
import time

def brevity(data_source, solution_str, ground_truth, extra_info=None):
    assert (data_source, ground_truth) == ("home", "normal"), (data_source, ground_truth)
    assert extra_info == {"data_source": "home", "sample_id": "train-1", "split": "train",
                          "is_truncated": False, "policy_version": "0.3"}, extra_info
    if "judge fails" in solution_str:
        raise RuntimeError("no judge")
    return -len(solution_str)

def sometimes(data_source, solution_str, ground_truth, extra_info=None):
    return None if "skip" in solution_str else {"score": 0.5, "words": 7}

def wants(prompts, completions, label, trainer_state):
    assert prompts == ["Which?"] * len(completions), prompts
    return [len(text) + trainer_state.global_step for text in completions]

def slow(data_source, solution_str, ground_truth, extra_info=None):
    begin = time.time()
    time.sleep(0.4)
    return {"score": 1, "begin": begin, "end": time.time()}

def huge(data_source, solution_str, ground_truth, extra_info=None):
    return 1.7e308
"""


def completion(text: str) -> Completion:
    return make_completion(text, version=PolicyVersion(attempt=0, step=3))


def term(path: Path, function: str, **values: Any) -> RewardTerm:
    file = path / "rewards.py"
    file.write_text(PLUGIN)
    return RewardTerm(function=f"{file}:{function}", **values)


async def test_built_ins_score_in_order() -> None:
    texts = [GOOD, "<answer>normal</answer>", GOOD.replace("normal", "abnormal"), "?"]
    async with Scorer(RewardConfig(), LABELS) as scorer:
        scores = await scorer.score(SAMPLE, [completion(text) for text in texts])
    assert [score.total for score in scores if isinstance(score, Score)] == [2.0, 1.0, 1.0, 0.0]
    assert scores[1] == Score(total=1.0, parts={"accuracy": 1.0, "format": 0.0})


async def test_total_is_the_weighted_sum_and_parts_are_raw(tmp_path: Path) -> None:
    terms = (RewardTerm(function="accuracy", weight=2.0), term(tmp_path, "brevity", weight=0.5))
    async with Scorer(RewardConfig(terms=terms), LABELS) as scorer:
        (score,) = await scorer.score(SAMPLE, [completion(GOOD)])
    assert score == Score(total=2.0 - len(GOOD) / 2, parts={"accuracy": 1.0, "brevity": -len(GOOD)})


async def test_a_trace_one_of_whose_terms_failed_is_a_failure_and_its_neighbours_are_not(
    tmp_path: Path,
) -> None:
    terms = (RewardTerm(function="accuracy"), term(tmp_path, "brevity", name="short"))
    texts = [GOOD, GOOD + " judge fails", GOOD]
    async with Scorer(RewardConfig(terms=terms), LABELS) as scorer:
        scores = await scorer.score(SAMPLE, [completion(text) for text in texts])
    assert [type(score) for score in scores] == [Score, Failure, Score]
    assert isinstance(scores[1], Failure)
    assert scores[1].culprit == "short"
    assert "no judge" in scores[1].reason


async def test_user_functions_run_side_by_side(tmp_path: Path) -> None:
    terms = tuple(term(tmp_path, "slow", name=name) for name in ("a", "b"))
    async with Scorer(RewardConfig(terms=terms), LABELS) as scorer:
        (score,) = await scorer.score(SAMPLE, [completion(GOOD)])
    assert isinstance(score, Score)
    parts = score.parts
    assert max(parts["a/begin"], parts["b/begin"]) < min(parts["a/end"], parts["b/end"])


async def test_groups_scored_together_keep_their_results(tmp_path: Path) -> None:
    terms = (term(tmp_path, "brevity"),)
    texts = [["a", "bb"], ["ccc"], ["dddd", "eeeee"]]
    async with Scorer(RewardConfig(terms=terms), LABELS) as scorer:
        groups = await asyncio.gather(
            *[scorer.score(SAMPLE, [completion(t) for t in group]) for group in texts]
        )
    totals = [[s.total for s in group if isinstance(s, Score)] for group in groups]
    assert totals == [[-1, -2], [-3], [-4, -5]]


async def test_a_sum_that_overflows_is_a_failure(tmp_path: Path) -> None:
    config = RewardConfig(terms=(term(tmp_path, "huge", weight=10.0),))
    async with Scorer(config, LABELS) as scorer:
        (score,) = await scorer.score(SAMPLE, [completion(GOOD)])
    assert isinstance(score, Failure)
    assert score.culprit == "huge"


async def test_a_bad_plugin_is_a_config_error_on_entering(tmp_path: Path) -> None:
    config = RewardConfig(terms=(term(tmp_path, "brevty"),))
    with pytest.raises(ConfigError, match="no 'brevty'"):
        async with Scorer(config, LABELS):
            pass


def test_a_missing_file_is_a_config_error_at_once() -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        Scorer(RewardConfig(terms=(RewardTerm(function="no/such.py:f"),)), LABELS)


def test_importing_loads_no_engine() -> None:
    code = (
        "import sys, reward.scorer, reward.stats\n"
        "heavy = {'ray', 'vllm', 'torch', 'deepspeed', 'numpy', 'rollout', 'learner', 'cluster'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=60)


async def test_a_term_that_does_not_apply_is_left_out(tmp_path: Path) -> None:
    terms = (RewardTerm(function="accuracy"), term(tmp_path, "sometimes"))
    async with Scorer(RewardConfig(terms=terms), LABELS) as scorer:
        scores = await scorer.score(SAMPLE, [completion(GOOD), completion(GOOD + "skip")])
    assert scores == [
        Score(total=1.5, parts={"accuracy": 1.0, "sometimes": 0.5, "sometimes/words": 7.0}),
        Score(total=1.0, parts={"accuracy": 1.0}),
    ]


async def test_a_trace_to_which_no_term_applies_is_masked_and_nobodys_fault(
    tmp_path: Path,
) -> None:
    config = RewardConfig(terms=(term(tmp_path, "sometimes"),))
    async with Scorer(config, LABELS) as scorer:
        (outcome,) = await scorer.score(SAMPLE, [completion("skip")])
    assert isinstance(outcome, Failure)
    assert outcome.kind is FailureKind.NOT_APPLICABLE


async def test_trls_functions_get_the_prompt_and_the_step(tmp_path: Path) -> None:
    config = RewardConfig(terms=(term(tmp_path, "wants"),))
    async with Scorer(config, LABELS) as scorer:
        scores = await scorer.score(SAMPLE, [completion("a"), completion("bb")], "Which?")
    assert [s.total for s in scores if isinstance(s, Score)] == [4.0, 5.0]


async def test_latencies_are_named_after_the_part(tmp_path: Path) -> None:
    config = RewardConfig(terms=(RewardTerm(function="accuracy"), term(tmp_path, "sometimes")))
    async with Scorer(config, LABELS) as scorer:
        await scorer.score(SAMPLE, [completion(GOOD)])
        assert scorer.take_figures().keys() == {
            f"reward/sometimes/{name}"
            for name in ("latency_p50_s", "latency_p99_s", "num_started", "num_split", "num_lost")
        }


def test_a_weight_for_an_unknown_label_is_refused_with_the_nearest() -> None:
    terms = (RewardTerm(function="accuracy", label_weights={"norml": 2.0}),)
    with pytest.raises(ConfigError, match="did you mean 'normal'"):
        Scorer(RewardConfig(terms=terms), LABELS)


async def test_a_built_in_gets_its_parameters_and_the_defaults_of_the_others() -> None:
    order = RewardTerm(function="ordinal", params={"order": ["normal", "abnormal"]})
    async with Scorer(RewardConfig(terms=(order,)), LABELS) as scorer:
        text = "<think>x</think><answer>abnormal</answer>"
        (score,) = await scorer.score(SAMPLE, [completion(text)])
    assert isinstance(score, Score)
    assert score.parts == {"ordinal": 0.5}


def test_parameters_of_a_built_in_that_do_not_fit_the_labels_are_refused() -> None:
    order = RewardTerm(function="ordinal", params={"order": ["normal", "abnormla"]})
    with pytest.raises(ConfigError, match=r"reward term 'ordinal'.*did you mean 'abnormal'"):
        Scorer(RewardConfig(terms=(order,)), LABELS)


def test_a_cache_longer_than_the_run_s_limit_is_refused() -> None:
    config = RewardConfig(terms=(RewardTerm(function="overlong", params={"cache_length": 200}),))
    with pytest.raises(ConfigError, match="limit of 100 tokens"):
        Scorer(config, LABELS, max_response_length=100)


async def test_a_judge_that_nobody_answers_is_a_failure_not_a_zero() -> None:
    params = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "max_retries": 0}
    term = RewardTerm(function="judge", params=params, timeout_s=60)
    async with Scorer(RewardConfig(terms=(term,)), LABELS) as scorer:
        (failure,) = await scorer.score(SAMPLE, [completion("<answer>x</answer>")])
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.culprit) == (FailureKind.REWARD, "judge")
    assert "gave no reply in 1 tries" in failure.reason
