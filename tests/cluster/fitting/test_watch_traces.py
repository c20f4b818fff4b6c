from pathlib import Path

import pytest

from cluster.fitting.watch import CandidateFit
from cluster.fitting.watch_traces import candidate_traces
from cluster.fitting.watch_weights import Saved
from tests.cluster.fitting.scripted_runs import NUM_VAL, ScriptedRun, answer
from tests.groups import make_group, make_sample
from wire.errors import DataError
from wire.types import Prompt, Purpose, Split


def order(run: ScriptedRun, step: int, num_versions: int) -> CandidateFit:
    version = run.version(step)
    saved = Saved(folder=Path("m"), is_checkpoint=False)
    return CandidateFit(
        version=version,
        step=step,
        model=Path("m"),
        learn_from=saved.versions(version, num_versions),
        out=Path("out"),
    )


def train(run: ScriptedRun, step: int, name: str, label: str, clip_key: str = "k") -> None:
    run.append(
        make_group(
            answer(label, run.version(step)),
            answer(label, run.version(step)),
            group_id=f"grpo/{name}-{step:08d}",
            sample=make_sample("undo", id=name),
            policy_version=run.version(step),
            prompt=Prompt(token_ids=(1, 2), clip_key=clip_key, fingerprint="f"),
        )
    )


def test_a_candidate_learns_from_the_last_versions_and_is_calibrated_on_its_own_val_traces(
    tmp_path: Path,
):
    run = ScriptedRun(tmp_path / "run")
    train(run, 1, "a", "zigzag")
    train(run, 2, "a", "varied")
    train(run, 3, "a", "undo")
    train(run, 3, "b", "undo")
    run.validate(3, 4)
    run.compact(3)
    train(run, 4, "a", "relapse")  # of the step that is under way
    run.validate(4, 5)
    labels = run.config.label_set
    traces = candidate_traces(run.path, "grpo", order(run, 3, 2), labels)
    assert [facts.sample.id for facts in traces.learned.facts] == ["a", "b"]
    assert [facts.answers for facts in traces.learned.facts] == [
        ("varied", "varied", "undo", "undo"),
        ("undo", "undo"),
    ]
    assert traces.learned.facts[0].versions == {run.version(2), run.version(3)}
    assert [facts.sample.split for facts in traces.val.facts] == [Split.VAL] * NUM_VAL
    assert sum(facts.answers == (facts.sample.label,) for facts in traces.val.facts) == 4
    assert len(traces.held_out) == len(traces.test) == 0


def test_traces_to_another_prompt_are_left_out_and_so_are_clips_that_failed_but_once(
    tmp_path: Path,
):
    run = ScriptedRun(tmp_path / "run")
    train(run, 1, "a", "zigzag", clip_key="before")
    train(run, 2, "a", "undo", clip_key="now")
    run.append(
        make_group(
            group_id="grpo/failed", sample=make_sample(id="a"), policy_version=run.version(2)
        )
    )
    traces = candidate_traces(run.path, "grpo", order(run, 2, 5), run.config.label_set)
    assert [facts.answers for facts in traces.learned.facts] == [("undo", "undo")]


def test_a_test_clip_is_never_among_them(tmp_path: Path):
    run = ScriptedRun(tmp_path / "run")
    train(run, 1, "a", "undo")
    for purpose in (Purpose.TRAIN, Purpose.VALIDATION):
        name = "grpo/t" if purpose is Purpose.TRAIN else "grpo/validation/000001/t"
        sample = make_sample("undo", id="t", split=Split.TEST)
        version = run.version(1)
        run.append(
            make_group(
                answer("undo"),
                group_id=name,
                sample=sample,
                purpose=purpose,
                policy_version=version,
            )
        )
    traces = candidate_traces(run.path, "grpo", order(run, 1, 1), run.config.label_set)
    assert [facts.sample.id for facts in traces.learned.facts] == ["a"]
    assert len(traces.val) == 0


def test_without_a_training_trace_the_fit_is_refused_with_what_to_do(tmp_path: Path):
    run = ScriptedRun(tmp_path / "run")
    run.validate(0, 4)
    with pytest.raises(DataError, match="a higher --versions looks further back"):
        candidate_traces(run.path, "grpo", order(run, 0, 1), run.config.label_set)
