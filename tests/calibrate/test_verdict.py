import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from calibrate.config import CalibrateConfig
from calibrate.predictions import Prediction, from_probabilities
from calibrate.protocols import TraceWriter, VerdictTrainer
from calibrate.traces import TraceSet, VerdictExamples, is_parsed
from calibrate.verdict import (
    probabilities_from_logprobs,
    refuse_foreign_traces,
    report_traces,
    trace_agreement,
    training_rows,
)
from rollout.prompt import Prompts
from tests.groups import make_completion
from tests.groups import make_group as group_of
from wire.errors import DataError
from wire.labels import Label, LabelSet
from wire.types import (
    Failure,
    FailureKind,
    PolicyVersion,
    Purpose,
    Sample,
    Score,
    Split,
    Trace,
    TraceGroup,
)

LABELS = LabelSet(labels=(Label(name="abnormal"), Label(name="normal")))
SERVED = PolicyVersion(attempt=0, step=60)
OLD = PolicyVersion(attempt=0, step=40)
RIGHT = "<think>calm</think><answer>normal</answer>"
WRONG = "<think>odd</think><answer>abnormal</answer>"
BROKEN = "normal, I guess"


def make_sample(name: str, label: str = "normal") -> Sample:
    return Sample(id=name, video=f"{name}.mp4", label=label, split=Split.CAL)


def make_group(
    name: str, *texts: str, label: str = "normal", version: PolicyVersion = SERVED
) -> TraceGroup:
    return group_of(
        *(make_trace(text, version) for text in texts),
        group_id=name,
        sample=make_sample(name, label),
        purpose=Purpose.CALIBRATION,
        policy_version=version,
    )


def make_trace(text: str, version: PolicyVersion = SERVED) -> Trace:
    unscored = Failure(kind=FailureKind.REWARD, culprit="judge", reason="timeout")
    outcome = unscored if text == BROKEN else Score(total=0.0, parts={})
    return Trace(completion=make_completion(text, version=version), outcome=outcome)


def make_prediction(name: str, right: bool, trace: str | None = None) -> Prediction:
    return Prediction(
        sample_id=name,
        label="normal",
        predicted="normal" if right else "abnormal",
        confidence=1.0,
        probabilities=None,
        trace=trace,
    )


def test_every_trace_is_a_row_right_wrong_malformed_or_unscored() -> None:
    groups = [make_group("x", RIGHT, WRONG, BROKEN, RIGHT), make_group("y"), make_group("z", WRONG)]
    rows = training_rows(TraceSet.of(groups, LABELS), LABELS.names)
    assert [(row.sample.id, row.trace) for row in rows] == [
        *[("x", RIGHT), ("x", WRONG), ("x", BROKEN), ("x", RIGHT)],
        ("z", WRONG),
    ]
    assert {row.label for row in rows} == {"normal"}


def test_rows_need_traces_and_known_labels() -> None:
    with pytest.raises(DataError, match="none of 1 clips"):
        training_rows(TraceSet.of([make_group("x")], LABELS), LABELS.names)
    with pytest.raises(DataError, match="'odd'"):
        training_rows(TraceSet.of([make_group("x", RIGHT, label="odd")], LABELS), LABELS.names)


@pytest.mark.parametrize("trace", [RIGHT, BROKEN, "<answer>normal</answer>", "<think>x</think>"])
def test_parsed_means_that_the_prompt_shows_a_conclusion(trace: str) -> None:
    (message,) = Prompts(LABELS).verdict(make_group("x").sample, trace)
    shown = "Conclusion: \n" not in message.text
    assert is_parsed(trace, LABELS) == shown


def test_report_worked_by_hand() -> None:
    groups = [
        make_group("x", RIGHT, WRONG, BROKEN, RIGHT),
        make_group("y"),
        make_group("z", WRONG, RIGHT, label="abnormal"),
    ]
    report = report_traces(TraceSet.of(groups, LABELS))
    assert (report.num_clips, report.num_clips_without_traces, report.num_traces) == (3, 1, 6)
    assert (report.num_unparsed, report.accuracy) == (1, 0.5)
    assert report.accuracy_per_label == {"abnormal": 0.5, "normal": 0.5}


def test_traces_of_the_served_policy_pass() -> None:
    groups = [make_group("x", RIGHT), make_group("y")]
    refuse_foreign_traces(TraceSet.of(groups, LABELS), SERVED)


def test_traces_that_the_same_weights_wrote_under_another_version_pass() -> None:
    groups = [make_group("x", RIGHT), make_group("y", RIGHT, version=OLD)]
    refuse_foreign_traces(TraceSet.of(groups, LABELS), SERVED, {SERVED, OLD})


def test_traces_of_another_policy_are_refused_with_both_versions() -> None:
    groups = [
        make_group("x", RIGHT),
        make_group("y", RIGHT, version=OLD),
        make_group("z", version=OLD),
    ]
    with pytest.raises(DataError, match=r"policy 0\.40 \(2 clips\), expected 0\.60"):
        refuse_foreign_traces(TraceSet.of(groups, LABELS), SERVED)


def test_logprobs_of_label_codes_become_probabilities() -> None:
    rows = probabilities_from_logprobs(np.log([[0.2, 0.2], [0.03, 0.01]]))
    np.testing.assert_allclose(rows, [[0.5, 0.5], [0.75, 0.25]])
    extreme = probabilities_from_logprobs([[-2000.0, -2001.0], [-np.inf, -5.0], [800.0, 0.0]])
    np.testing.assert_allclose(extreme.sum(axis=1), 1.0)
    np.testing.assert_allclose(extreme[:, 0], [1 / (1 + np.exp(-1)), 0.0, 1.0])


@pytest.mark.parametrize("row", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]])
def test_logprobs_that_say_nothing_are_refused(row: list[float]) -> None:
    with pytest.raises(DataError, match="every label"):
        probabilities_from_logprobs([[0.0, 0.0], row])


def test_agreement_counts_repeated_answers() -> None:
    rows = [
        make_prediction("a", right=True, trace=RIGHT),
        make_prediction("b", right=True, trace=WRONG),
        make_prediction("c", right=True, trace=BROKEN),
        make_prediction("d", right=False, trace=WRONG),
        make_prediction("e", right=True),
    ]
    assert trace_agreement(rows, LABELS) == 0.5
    assert trace_agreement(rows[-1:], LABELS) is None


class ScriptedWriter:
    """A TraceWriter that writes the same trace for every clip."""

    weights = frozenset({SERVED})

    async def write(
        self, samples: Sequence[Sample], k: int, temperature: float, purpose: Purpose
    ) -> TraceSet:
        return TraceSet.of([make_group(sample.id, *[RIGHT] * k) for sample in samples], LABELS)

    async def write_evaluation(self, samples: Sequence[Sample]) -> TraceSet:
        return await self.write(samples, 1, 0.01, Purpose.EVALUATION)


class CopyingTrainer:
    """A VerdictTrainer that repeats the answer of the trace."""

    async def train(self, examples: VerdictExamples, config: CalibrateConfig) -> int:
        self.num_trained = len(examples)
        return 1

    async def label_logprobs(self, examples: VerdictExamples) -> NDArray[np.float64]:
        said = [LABELS.answer_in(example.trace or "") for example in examples]
        return np.array(
            [[0.0 if name == answer else -9.0 for name in LABELS.names] for answer in said]
        )


async def test_the_protocols_fit_together() -> None:
    writer: TraceWriter = ScriptedWriter()
    trainer: VerdictTrainer = (copying := CopyingTrainer())
    config = CalibrateConfig()
    samples = [make_sample("a"), make_sample("b")]
    groups = await writer.write(samples, config.num_traces, config.temperature, Purpose.CALIBRATION)
    refuse_foreign_traces(groups, SERVED)
    rows = training_rows(groups, LABELS.names)
    await trainer.train(rows, config)
    assert copying.num_trained == 4 * len(samples)
    probabilities = probabilities_from_logprobs(await trainer.label_logprobs(rows))
    ids, labels, traces = zip(*[(r.sample.id, r.label, r.trace) for r in rows], strict=True)
    predictions = from_probabilities(ids, labels, probabilities, LABELS.names, traces)
    assert trace_agreement(predictions, LABELS) == 1.0


def test_importing_loads_no_engine() -> None:
    code = (
        "import sys, calibrate.verdict, calibrate.head, calibrate.metrics\n"
        "heavy = {'ray', 'vllm', 'torch', 'deepspeed', 'rollout', 'learner', 'cluster'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=60)
