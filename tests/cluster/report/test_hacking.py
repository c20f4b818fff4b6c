from dataclasses import replace
from pathlib import Path

from cluster.report.gather import Report, gather
from cluster.report.hacking import SignalRecord
from tests.cluster.report.builders import make_group, make_trace, write_metrics, write_run
from tests.cluster.report.guard_run import LABEL, STEPS, write_guarded_run
from wire.archive.archive import Archive
from wire.types import PolicyVersion


def signals(report: Report) -> dict[str, SignalRecord]:
    (stage,) = report.guards
    assert stage.stage == "grpo"
    return {signal.name: signal for signal in stage.signals}


def test_each_signal_has_its_steps_its_words_and_traces_that_show_it(tmp_path: Path) -> None:
    report = gather(write_guarded_run(tmp_path / "r").path, max_clips=0)
    assert report.notes == ()
    found = signals(report)
    last = STEPS
    assert {name: one.spans for name, one in found.items()} == {
        "length_drift": ((last - 9, last),),
        "format_only": ((last - 9, last),),
        "one_label": ((10, 14), (last - 9, last)),
        "identical_traces": ((last - 9, last),),
        "label_in_prompt": ((last - 9, last),),
    }
    assert all(one.stands for one in found.values())
    assert found["length_drift"].says.startswith("traces are 2.70 times as long")
    assert found["one_label"].says.startswith("100% of the answers are one label")
    longest = found["length_drift"].examples[0]
    assert longest.tokens == 9
    assert {one.answer for one in found["one_label"].examples} == {"a"}
    assert {one.label for one in found["one_label"].examples} == {LABEL}
    assert found["identical_traces"].examples[0].note == "all 2 traces of its group are this one"
    assert found["label_in_prompt"].examples[0].note == "its prompt says: Title: it says falling"
    assert {one.parts["format"] for one in found["format_only"].examples} == {1.0}


def test_a_run_without_warnings_has_words_and_no_traces(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    (run.path / "metrics.jsonl").unlink()
    calm = {"guard/length_ratio": 1.0, "guard/length_drift/flagged": 0.0}
    write_metrics(run, "grpo", range(1, 9), **calm)
    found = signals(gather(run.path, max_clips=0))
    assert all(one.spans == () and one.examples == () for one in found.values())
    assert found["length_drift"].says == "traces are 1.00 times as long as in the first steps"
    assert "no format term" in found["format_only"].says
    assert {name for name, one in found.items() if one.known} == {"length_drift"}


def test_a_run_of_an_earlier_version_has_no_guards(tmp_path: Path) -> None:
    assert gather(write_run(tmp_path / "r").path, max_clips=0).guards == ()


def test_traces_are_those_of_the_newest_attempt_at_the_warned_step(tmp_path: Path) -> None:
    run = write_guarded_run(tmp_path / "r")
    place = 2 * STEPS - 1
    newer = [make_trace("a", text=f"<think>anew {i}</think><answer>a</answer>") for i in range(2)]
    again = make_group(f"grpo/{place:08d}", newer, label=LABEL)
    sample = replace(again.sample, extra={"title": "x"})
    with Archive(run.archive, 7) as archive:
        version = PolicyVersion(attempt=7, step=1)
        archive.append(replace(again, policy_version=version, sample=sample))
    found = signals(gather(run.path, max_clips=0))
    assert any("anew" in one.text for one in found["one_label"].examples)
    assert not any("too early" in e.text for one in found.values() for e in one.examples)
