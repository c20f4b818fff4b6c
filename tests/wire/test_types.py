import inspect
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from tests.groups import make_completion, make_sample
from tests.groups import make_group as group_of
from wire import errors
from wire.types import (
    Completion,
    Failure,
    FailureKind,
    FinishReason,
    PolicyVersion,
    Prompt,
    Purpose,
    Score,
    Split,
    Trace,
    TraceGroup,
    VersionChange,
    stable_hash,
    stable_seed,
)

VERSION = PolicyVersion(attempt=1, step=40)
SAMPLE = make_sample(extra={"fps": 8})
PROMPT = Prompt(token_ids=(1, 2), clip_key="ab", fingerprint="cd")
COMPLETION = make_completion(
    "B", token_ids=(5,), logprobs=(-0.5,), finish=FinishReason.LENGTH, version=VERSION
)
SCORE = Score(total=0.0, parts={"accuracy": 0.0})
FAILURE = Failure(kind=FailureKind.REWARD, culprit="judge", reason="timeout")
SCORED = Trace(completion=COMPLETION, outcome=SCORE)
FAILED = Trace(completion=COMPLETION, outcome=FAILURE)


def make_group(
    prompt: Prompt | None = PROMPT,
    traces: tuple[Trace, ...] = (SCORED, FAILED),
    failures: tuple[Failure, ...] = (),
) -> TraceGroup:
    return group_of(
        sample=SAMPLE,
        purpose=Purpose.EVALUATION,
        policy_version=VERSION,
        prompt=prompt,
        traces=traces,
        failures=failures,
    )


RECORDS = [VERSION, SAMPLE, PROMPT, COMPLETION, SCORE, FAILURE, SCORED, FAILED, make_group()]
ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_record_survives_pickle(record: object, protocol: int) -> None:
    assert pickle.loads(pickle.dumps(record, protocol)) == record


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_frozen(record: object) -> None:
    name = next(iter(type(record).__dataclass_fields__))  # type: ignore[attr-defined]
    with pytest.raises(FrozenInstanceError):
        setattr(record, name, None)


@pytest.mark.parametrize("kind", [Split, Purpose, FinishReason, FailureKind])
def test_a_member_of_a_closed_set_survives_pickle(kind: type) -> None:
    for member in kind:  # type: ignore[attr-defined]
        assert pickle.loads(pickle.dumps(member)) is member


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickle_and_is_a_standard_one_too(kind: type[Exception]) -> None:
    found = pickle.loads(pickle.dumps(kind("clip 7.mp4: got a, expected b")))
    assert type(found) is kind
    assert str(found) == "clip 7.mp4: got a, expected b"
    assert isinstance(found, errors.DeepIntuitError)
    if kind is not errors.DeepIntuitError:
        assert isinstance(found, ValueError | RuntimeError | TimeoutError)


def test_what_the_user_can_mend_is_a_value_error() -> None:
    found = {kind for kind in ERRORS if issubclass(kind, ValueError)}
    users = {errors.ConfigError, errors.DataError, errors.DiskFull, errors.PlacementError}
    assert found == {errors.UserError, errors.CheckpointDamaged, errors.LearnsNothing} | users


def test_a_completion_needs_one_logprob_per_token() -> None:
    with pytest.raises(ValueError, match="2 token_ids but 1 logprobs"):
        Completion(
            token_ids=(1, 2),
            logprobs=(-0.5,),
            text="",
            finish_reason=FinishReason.STOP,
            policy_version=VERSION,
        )


def test_a_completion_needs_a_token() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Completion(
            token_ids=(),
            logprobs=(),
            text="",
            finish_reason=FinishReason.STOP,
            policy_version=VERSION,
        )


def test_a_group_with_traces_needs_their_prompt() -> None:
    with pytest.raises(ValueError, match="traces but no prompt"):
        make_group(prompt=None)


def test_a_group_without_traces_must_say_why() -> None:
    with pytest.raises(ValueError, match="neither traces nor failures"):
        make_group(traces=())
    assert make_group(prompt=None, traces=(), failures=(FAILURE,)).scored == ()


def test_a_trace_whose_scoring_failed_has_no_reward_and_a_wrong_one_has_zero() -> None:
    assert SCORED.reward == 0.0
    assert FAILED.reward is None
    assert make_group().scored == (SCORED,)


def test_only_the_token_limit_truncates() -> None:
    assert [reason for reason in FinishReason if reason.is_truncated] == [FinishReason.LENGTH]


def test_policy_versions_are_ordered_by_attempt_then_step() -> None:
    older, newer = PolicyVersion(attempt=0, step=99), PolicyVersion(attempt=1, step=2)
    assert older < newer < PolicyVersion(attempt=1, step=10)
    assert PolicyVersion.parse(str(newer)) == newer
    assert str(newer) == "1.2"


@pytest.mark.parametrize("text", ["", "7", "1.", "a.b"])
def test_a_text_that_is_no_policy_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        PolicyVersion.parse(text)


def test_a_hash_and_a_seed_are_the_same_in_every_process() -> None:
    parts = ["run", 3, ("a", 0.5), {"b": 1, "a": None}, Path("x/y"), Split.CAL]
    code = (
        "from pathlib import Path; from wire.types import *; "
        "parts = ['run', 3, ('a', 0.5), {'a': None, 'b': 1}, Path('x/y'), Split.CAL]; "
        "print(stable_hash(*parts), stable_seed(*parts))"
    )
    for seed in ("0", "1", "12345"):
        output = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        assert output == [stable_hash(*parts), str(stable_seed(*parts))]


def test_a_hash_never_changes_between_releases() -> None:
    assert stable_hash("run", 7)[:16] == "ff8ae70776640785"


def test_different_parts_give_different_seeds_of_31_bits() -> None:
    seeds = {stable_seed("run", group, index) for group in range(50) for index in range(8)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert stable_seed("a", "bc") != stable_seed("ab", "c")


@pytest.mark.parametrize(
    ("first_token", "step"),
    [(0, 41), (3, 41), (1, 40), (1, 39)],  # at once, behind the end, no change, a step back
)
def test_versions_of_an_answer_ascend_with_its_tokens(first_token: int, step: int) -> None:
    changes = (VersionChange(first_token, PolicyVersion(attempt=1, step=step)),)
    with pytest.raises(ValueError, match="versions of an answer of 3 tokens have to ascend"):
        make_completion("x", num_tokens=3, version=VERSION, version_changes=changes)
    newer = VersionChange(2, PolicyVersion(attempt=1, step=41))
    made = make_completion("x", num_tokens=3, version=VERSION, version_changes=(newer,))
    assert made.version_changes == (newer,)


def test_a_group_is_dropped_where_the_fleet_failed_it_and_not_by_its_sample_s_fault() -> None:
    dropped = {
        kind
        for kind in FailureKind
        if group_of(failures=(Failure(kind=kind, culprit="c", reason="r"),)).is_dropped
    }
    assert {FailureKind.GENERATION, FailureKind.DISK} <= dropped
    assert not dropped & {FailureKind.DECODE, FailureKind.PROMPT}


def test_importing_the_types_loads_no_heavy_library() -> None:
    code = (
        "import sys, wire.types, wire.errors, wire.config, wire.labels; "
        "heavy = {'torch', 'ray', 'vllm', 'deepspeed', 'pyarrow', 'numpy', 'transformers'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=True)
