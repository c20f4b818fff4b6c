import json
from pathlib import Path

from cluster.resume.attempts import (
    Attempt,
    describe_attempt,
    first_bitwise_equal_attempt,
    note_attempt,
)
from tests.cluster.session_fakes import make_config


def test_attempts_are_alike_from_the_last_change_on(tmp_path: Path):
    def note(number: int, numerics: str, *, deterministic: bool = True) -> Attempt:
        attempt = Attempt(attempt=number, deterministic=deterministic, numerics_hash=numerics)
        note_attempt(tmp_path, attempt)
        return attempt

    assert first_bitwise_equal_attempt(tmp_path, note(0, "a")) == 0
    assert first_bitwise_equal_attempt(tmp_path, note(1, "a")) == 0
    assert first_bitwise_equal_attempt(tmp_path, note(2, "b")) == 2
    with (tmp_path / "attempts.jsonl").open("a") as file:
        file.write('{"attempt": 3, "determ\n')  # a killed process; the next one has its number
    assert first_bitwise_equal_attempt(tmp_path, note(3, "b")) == 2
    assert first_bitwise_equal_attempt(tmp_path, note(4, "b", deterministic=False)) == 4
    assert first_bitwise_equal_attempt(tmp_path, note(5, "b")) == 5
    far_later = Attempt(attempt=7, deterministic=True, numerics_hash="b")
    assert first_bitwise_equal_attempt(tmp_path, far_later) == 7


def test_an_attempt_says_which_wording_its_prompts_had(tmp_path: Path):
    texts = {"trace": "{labels} <think> <answer>"}
    for number, prompts in enumerate(({}, texts)):
        note_attempt(tmp_path, describe_attempt(make_config(prompts=prompts), number))
    first, second = (json.loads(line)["prompts"] for line in (tmp_path / "attempts.jsonl").open())
    assert first == dict.fromkeys(first, "1")
    assert {"trace", "verdict", "label", "rationale"} <= set(first)
    assert second == {**first, "trace": make_config(prompts=texts).prompt_set.version("trace")}


def test_another_number_of_ranks_or_threads_makes_other_bits():
    base = make_config(deterministic=True)
    numerics = {
        describe_attempt(make_config(deterministic=True, learner=learner), 0).numerics_hash
        for learner in ({"num_ranks": 2}, {"zero_stage": 2}, {"num_threads": 1})
    }
    assert len(numerics | {describe_attempt(base, 0).numerics_hash}) == 4
    assert describe_attempt(base, 1).numerics_hash == describe_attempt(base, 0).numerics_hash
