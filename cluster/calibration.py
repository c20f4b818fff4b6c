"""Stage 3: classifiers trained on the refined policy's own traces (DeepIntuit's intuition
calibration).

    cal clips -> k traces each, kept right or wrong, archived -> verdict (the VLM itself) and head
    (linear)
    test clips -> one trace each -> both classifiers -> figures

calibrate/ states what it needs as Protocols and knows no engine; they are implemented here.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrate import head as linear_head
from calibrate.compare import count_flips
from calibrate.config import CalibrateConfig
from calibrate.predictions import Prediction, from_probabilities
from calibrate.verdict import (
    VerdictExample,
    probabilities_from_logprobs,
    refuse_foreign_traces,
    report_traces,
    trace_agreement,
    training_rows,
)
from cluster.evaluation import measure, policy_predictions, write_evaluation_traces
from cluster.failures import refuse_failures
from cluster.progress import console, progress_bar
from cluster.run_dir import write_json
from cluster.session import Session
from cluster.supervised import train_supervised
from learner.config import OptimConfig
from learner.rows import Response, Row, supervised_row
from rollout.engine import Sampling
from wire.errors import DataError
from wire.types import Failure, Prompt, Purpose, Sample, Split, TraceGroup, stable_seed

STAGE = "calibrated"


class PolicyTraces:
    """calibrate's TraceWriter: the rollout engines, holding the refined policy."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def write(
        self, samples: Sequence[Sample], k: int, temperature: float, purpose: Purpose
    ) -> list[TraceGroup]:
        """``k`` traces per sample, kept right or wrong."""
        session = self._session

        def sampling(sample: Sample) -> Sampling:
            return Sampling(
                n=k,
                temperature=temperature,
                max_tokens=session.config.rollout.max_response_length,
                seed=stable_seed(purpose, session.config.seed, sample.id),
            )

        with progress_bar(f"{purpose} traces", len(samples)) as bar:
            groups = await session.writer.write_all(samples, sampling, purpose, STAGE, bar.advance)
        session.archive.compact(groups[0].policy_version.step)
        return groups


class PolicyVerdict:
    """calibrate's VerdictTrainer: the learner, starting from the refined policy."""

    def __init__(self, session: Session, policy_dir: Path) -> None:
        self._session, self._policy_dir = session, policy_dir
        self._codes = session.renderer.label_codes(session.config.label_set)

    async def train(self, examples: Sequence[VerdictExample], config: CalibrateConfig) -> None:
        """Fine-tune on the label code alone (end of turn not included)."""
        rows = [
            supervised_row(prompt, example.sample.video, self._codes[example.label])
            for example, prompt in await _verdict_prompts(self._session, examples)
        ]
        optim = OptimConfig(
            learning_rate=config.learning_rate,
            warmup_frac=config.warmup_frac,
            decay="linear",
            weight_decay=0.0,
        )
        await train_supervised(
            self._session,
            STAGE,
            self._policy_dir,
            rows,
            epochs=config.epochs,
            batch_size=config.batch_size,
            optim=optim,
        )

    async def label_logprobs(self, examples: Sequence[VerdictExample]) -> NDArray[np.float64]:
        """[N, L]: logprob of each label's code, all codes of an example behind one prompt."""
        codes = [Response(token_ids=code) for code in self._codes.values()]
        rows = [
            Row(prompt=prompt, video=example.sample.video, responses=tuple(codes))
            for example, prompt in await _verdict_prompts(self._session, examples)
        ]
        found = await self._session.learner.logprobs(rows)
        return np.array([[sum(tokens) for tokens in row] for row in found])


async def run_calibration(session: Session, policy_dir: Path) -> dict[str, Any]:
    """Train and measure the classifiers. ``policy_dir`` holds the weights that the engines hold
    now."""
    config, labels = session.config.calibrate, session.config.label_set
    samples = session.data.of(Split(config.split))
    written = await PolicyTraces(session).write(
        samples, config.num_traces, config.temperature, Purpose.CALIBRATION
    )
    refuse_failures(written, session.config.reward.max_failure_frac)
    refuse_foreign_traces(written, session.version(session.engines_step))
    examples = training_rows(written, labels.names)
    evaluated = await write_evaluation_traces(session, STAGE)
    policy = policy_predictions(evaluated, labels, session.renderer)
    result: dict[str, Any] = {
        "traces": asdict(report_traces(written, labels)),
        "num_failed": sum(not group.traces for group in evaluated),
    }
    if "head" in config.methods:
        predictions = await _head(session, policy_dir, written, evaluated)
        result["head"] = asdict(measure(session, "head", predictions))
    if "verdict" in config.methods:
        predictions = await _verdict(session, policy_dir, examples, evaluated)
        result["verdict"] = asdict(measure(session, STAGE, predictions))
        result["flips"] = asdict(count_flips(policy, predictions))
        result["agreement"] = trace_agreement(predictions, labels)
    write_json(
        session.run_dir.model(STAGE).parent / "classifier.json",
        {
            "label_names": labels.names,
            "label_codes": session.renderer.label_codes(labels),
            "policy_version": str(written[0].policy_version),
        },
    )
    return result


async def _verdict(
    session: Session,
    policy_dir: Path,
    examples: Sequence[VerdictExample],
    evaluated: Sequence[TraceGroup],
) -> list[Prediction]:
    trainer = PolicyVerdict(session, policy_dir)
    await trainer.train(examples, session.config.calibrate)
    await session.learner.export(str(session.run_dir.model(STAGE)))
    asked = training_rows(evaluated, session.config.label_set.names)
    probabilities = probabilities_from_logprobs(await trainer.label_logprobs(asked))
    return _predictions(session, evaluated, asked, probabilities)


async def _head(
    session: Session,
    policy_dir: Path,
    written: Sequence[TraceGroup],
    evaluated: Sequence[TraceGroup],
) -> list[Prediction]:
    """A linear classifier over the policy's hidden state after video and trace."""
    await session.begin(policy_dir, OptimConfig())
    names = session.config.label_set.names
    known = training_rows(written, names)
    console.print(f"head: hidden states of {len(known)} traces")
    features = await session.learner.features(_trace_rows(written))
    head = linear_head.fit(
        features, [e.label for e in known], names, sample_ids=[e.sample.id for e in known]
    )
    head.save(session.run_dir.model(STAGE).parent / "head")
    asked = training_rows(evaluated, names)
    found = await session.learner.features(_trace_rows(evaluated))
    return _predictions(session, evaluated, asked, head.probabilities(found))


def _trace_rows(groups: Sequence[TraceGroup]) -> list[Row]:
    """One row per trace, in the order of ``training_rows``: video, trace prompt, trace."""
    return [
        supervised_row(group.prompt, group.sample.video, trace.completion.token_ids)
        for group in groups
        for trace in group.traces
        if group.prompt is not None
    ]


def _predictions(
    session: Session,
    evaluated: Sequence[TraceGroup],
    asked: Sequence[VerdictExample],
    probabilities: NDArray[np.float64],
) -> list[Prediction]:
    """Predictions for all evaluated clips; one without a trace is wrong."""
    given = from_probabilities(
        [example.sample.id for example in asked],
        [example.label for example in asked],
        probabilities,
        session.config.label_set.names,
        [example.trace for example in asked],
    )
    by_id = {prediction.sample_id: prediction for prediction in given}
    return [by_id.get(group.sample.id) or _missing(group.sample) for group in evaluated]


def _missing(sample: Sample) -> Prediction:
    return Prediction(
        sample_id=sample.id,
        label=sample.label,
        predicted=None,
        confidence=0.0,
        probabilities=None,
        trace=None,
    )


async def _verdict_prompts(
    session: Session, examples: Sequence[VerdictExample]
) -> list[tuple[VerdictExample, Prompt]]:
    """Each example's verdict prompt. Raises DataError if a clip can no longer be read."""
    found = []
    for start in range(0, len(examples), 256):  # bounded, so that calls do not pile up
        part = examples[start : start + 256]
        prompts = await session.verdict_prompts([(e.sample, e.trace) for e in part])
        found += list(zip(part, prompts, strict=True))
    bad = next((p for _, p in found if isinstance(p, Failure)), None)
    if bad is not None:
        raise DataError(f"no verdict can be asked about {bad.culprit}: {bad.reason}")
    return [(example, prompt) for example, prompt in found if isinstance(prompt, Prompt)]
