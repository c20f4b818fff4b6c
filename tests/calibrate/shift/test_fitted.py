"""The reference that a fit makes, and the monitor on real traces: of 300 test clips, by the cold
start and by GRPO of one demo run (tests/data/demo_traces.parquet)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from calibrate.shift.features import TraceFeatures, TraceReference
from calibrate.shift.fitted import reference_of_fit
from calibrate.shift.monitor import ShiftMonitor
from calibrate.traces import TraceSet
from tests.groups import make_completion, make_group, make_sample
from wire.labels import Label, LabelSet
from wire.types import Score, Trace

NAMES = ("relapse", "repeat", "undo", "varied", "zigzag")
LABELS = LabelSet(labels=tuple(Label(name=name) for name in NAMES))
TRACES = Path(__file__).parents[2] / "data/demo_traces.parquet"


def features(policy: str) -> dict[str, TraceFeatures]:
    """By clip."""
    rows = pq.read_table(TRACES, filters=[("policy", "=", policy)]).to_pylist()
    return {r["sample_id"]: TraceFeatures.of(r["text"], r["logprobs"], LABELS) for r in rows}


def halves(seed: int, ids: Sequence[str]) -> tuple[list[str], list[str]]:
    order = np.random.default_rng(seed).permutation(sorted(ids)).tolist()
    return order[: len(order) // 2], order[len(order) // 2 :]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("archived", "served"), [("grpo", "coldstart"), ("coldstart", "grpo")])
def test_traces_of_another_policy_of_the_run_alarm_and_those_of_the_same_do_not(
    archived: str, served: str, seed: int
):
    """On clips that the reference does not have."""
    known, others = features(archived), features(served)
    calibrated_on, in_use = halves(seed, list(known))
    reference = TraceReference.of([known[name] for name in calibrated_on], NAMES)
    same, another = ShiftMonitor(reference), ShiftMonitor(reference)
    assert same.observe_all(known[name] for name in in_use) is None
    alarm = another.observe_all(others[name] for name in in_use)
    assert alarm is not None
    assert "tokens are" in alarm  # less or more probable to the policy that wrote them
    assert another.alarms["mean_logprob"].num_served <= 60


def test_the_reference_of_a_fit_has_the_first_trace_of_each_clip_with_its_confidence():
    def trace(text: str) -> Trace:
        return Trace(
            completion=make_completion(text, num_tokens=3), outcome=Score(total=1.0, parts={})
        )

    groups = [
        make_group(
            trace("<think>up</think><answer>undo</answer>"),
            trace("<answer>zigzag</answer>"),
            sample=make_sample("undo", id="a"),
        ),
        make_group(sample=make_sample("undo", id="unreadable")),
    ]
    rows = np.array([[0.1, 0.1, 0.6, 0.1, 0.1], [0.2] * 5])
    reference = reference_of_fit([(TraceSet.of(groups, LABELS), rows)], LABELS)
    assert reference is not None
    assert len(reference.traces) == 1
    assert reference.traces.answer.tolist() == [NAMES.index("undo")]
    assert reference.traces.confidence.tolist() == pytest.approx([0.6])
    assert reference.traces.num_tokens.tolist() == [3]
    assert reference_of_fit([(TraceSet.of(groups[1:], LABELS), rows[1:])], LABELS) is None
