"""A fit from the archive of a run, with fake engines and learner: the stage's own classifier."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calibrate.classifier import Classifier, load_classifier
from calibrate.thresholds.held_out import HeldOut
from cluster.fitting.fit import FitOrder, fit_from_archive
from cluster.fitting.source import FitRequest, fit_order
from cluster.run_dir import RunDir
from learner.config import OptimConfig
from learner.shared_prefix.rows import Row
from rollout.prompt import VerdictPrompt
from tests.cluster.session_fakes import (
    FakeEngines,
    load_renderer,
    make_config,
    make_samples,
    write_model,
)
from tests.cluster.stages.chain_fakes import (
    CALIBRATE,
    ChainLearner,
    Killed,
    run_chain,
    two_of_three,
)
from wire.errors import DataError
from wire.types import PolicyVersion, Prompt, Purpose, Sample, stable_seed

SAMPLES = make_samples(cal=42, val=30, test=12)
CHAIN = [
    {"name": "own", "kind": "sft", "data": "own", "epochs": 1, "from": "base"},
    {"name": "verdict", "kind": "calibrate", "from": "own", "validate": {"every": 5}},
]


class UnevenLearner(ChainLearner):
    """A learner whose logprobs depend on weights, prompt and response, and on their place in the
    call, as those of a real one do by rounding."""

    calls: list[tuple[str, list[Row]]]

    async def logprobs(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        if any(len(row.responses) == 1 for row in rows):  # the parity probe
            return await super().logprobs(rows)
        self.__dict__.setdefault("calls", []).append((self.weights, list(rows)))
        return [
            [[self._uneven(row, r.token_ids, place)] * len(r.token_ids) for r in row.responses]
            for place, row in enumerate(rows)
        ]

    def _uneven(self, row: Row, response: Sequence[int], place: int) -> float:
        asked = row.prompt.token_ids.tobytes(), tuple(response)
        return -stable_seed(self.weights, *asked, place) % 1000 / 500 - 3.0


class Session:
    """A LearnerSession on a fake learner."""

    def __init__(self) -> None:
        self.renderer = load_renderer()
        self._engines = FakeEngines(self.renderer, PolicyVersion(attempt=0, step=0), "")
        self.learner: Any = UnevenLearner(self._engines)

    async def start_training(
        self, model_dir: Path, optim: OptimConfig, loss: object = None, lora: object = None
    ) -> None:
        await self.learner.begin(str(model_dir), optim)

    async def preflight(self, name: str, **sizes: int) -> None:
        pass

    async def verdict_prompts(self, traces: list[tuple[Sample, str]]) -> list[Prompt]:
        return [await self._engines.prompt(s, VerdictPrompt(trace)) for s, trace in traces]


@pytest.fixture
async def run(tmp_path: Path) -> tuple[Path, UnevenLearner]:
    """A finished run, and its learner."""
    config = make_config(stages=CHAIN, calibrate={**CALIBRATE, "class_weights": "balanced"})
    run_dir = RunDir.open(tmp_path / "run", config, resume=False, overwrite=False)
    attempt = await run_chain(
        run_dir, config, samples=SAMPLES, write=two_of_three, make_learner=UnevenLearner
    )
    run_dir.close()
    learner: Any = attempt.learner
    return run_dir.path, learner


async def fitted(session: Any, order: FitOrder) -> Classifier:
    result = await fit_from_archive(session, order)
    published = load_classifier(order.out)
    assert result["classifier"]["version"] == published.version
    assert not order.out.with_name(f"{order.out.name}.work").exists()
    return published


async def test_a_fit_of_a_run_s_archive_asks_the_learner_the_same_and_is_the_same_classifier(
    run: tuple[Path, UnevenLearner], tmp_path: Path
):
    path, of_stage = run
    session = Session()
    fit = await fitted(session, fit_order(FitRequest(source=path, out=tmp_path / "out")))
    stage = load_classifier(path)
    assert fit.description == stage.description
    steps = of_stage.steps[-len(session.learner.steps) :]
    assert session.learner.steps == steps, "rows, weights and order of every update"
    assert session.learner.calls == of_stage.calls[-len(session.learner.calls) :]
    assert fit.calibration == stage.calibration
    assert fit.files == stage.files
    assert fit.version == stage.version, "description, and bytes of weights and calibration"
    assert {r.responses[0].advantage for _, rows in steps for r in rows} != {1.0}
    assert fit.provenance.splits == stage.provenance.splits
    assert fit.calibration.num_samples == {"learned": 32, "held_out": 10, "val": 30, "test": 12}
    scored = HeldOut.load(fit.path)
    assert scored is not None
    assert (len(scored.held_out), len(scored.val)) == (10, 30)


async def test_a_fit_may_leave_the_test_clips_alone(
    run: tuple[Path, UnevenLearner], tmp_path: Path
):
    session = Session()
    order = fit_order(FitRequest(source=run[0], out=tmp_path / "out", methods=("verdict",)))
    fit = await fitted(session, replace(order, test=None))
    asked = {row.video for _, rows in session.learner.calls for row in rows}
    assert not [video for video in asked if "/test-" in video]
    assert fit.calibration.num_samples["test"] == 0
    assert [one.split for one in fit.calibration.figures] == ["val", "held_out"]


async def test_a_fit_without_traces_to_learn_from_leaves_nothing(
    run: tuple[Path, UnevenLearner], tmp_path: Path
):
    order = fit_order(FitRequest(source=run[0], out=tmp_path / "out"))
    asked = replace(order, purpose=Purpose.TRAIN, learn_from=frozenset())
    with pytest.raises(DataError, match="no traces for train"):
        await fit_from_archive(Session(), asked)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("out*"))


async def test_a_foreign_archive_is_marked_in_what_is_published(
    run: tuple[Path, UnevenLearner], tmp_path: Path
):
    write_model(other := tmp_path / "other", "others")
    request = FitRequest(source=run[0], out=tmp_path / "out", model=other, allow_foreign=True)
    fit = await fitted(Session(), fit_order(request))
    assert "wrote none of the traces" in fit.provenance.archive.foreign
    assert "wrote none of the traces" in (fit.path / "README.md").read_text()


def order_of(run: tuple[Path, UnevenLearner], out: Path) -> FitOrder:
    settings = ("calibrate.validate.every=0", "calibrate.epochs=3")
    return fit_order(FitRequest(source=run[0], out=out, settings=settings))


async def killed_fit(order: FitOrder, *, updates: int) -> Session:
    """A fit whose process ends at an update; what had read the policy is done by then."""
    session = Session()
    session.learner.updates_left = updates
    with pytest.raises(Killed):
        await fit_from_archive(session, order)  # type: ignore[arg-type]
    assert not order.out.exists()
    return session


async def test_a_fit_that_was_killed_goes_on_from_its_checkpoint_to_the_same_classifier(
    run: tuple[Path, UnevenLearner], tmp_path: Path
):
    whole = Session()
    expected = await fitted(whole, order_of(run, tmp_path / "whole"))
    order = order_of(run, tmp_path / "out")
    every, per_epoch = len(whole.learner.steps), len(whole.learner.steps) // 3
    killed = await killed_fit(order, updates=2 * per_epoch + 1)
    taken_up = Session()
    fit = await fitted(taken_up, order)
    assert fit.version == expected.version, "to the bit"
    assert len(taken_up.learner.steps) == every - 2 * per_epoch, "from the second epoch's end on"
    assert taken_up.learner.steps == whole.learner.steps[2 * per_epoch :]
    read_before = len(killed.learner.calls)
    assert taken_up.learner.calls == whole.learner.calls[read_before:], "the policy is read once"


async def test_what_another_order_left_in_the_work_folder_is_not_taken_up(
    run: tuple[Path, UnevenLearner], tmp_path: Path
):
    order = order_of(run, tmp_path / "out")
    await killed_fit(order, updates=10)
    stage = order.stage.model_copy(update={"learning_rate": 1e-3})
    other = Session()
    await fitted(other, replace(order, stage=stage))
    whole = Session()
    await fitted(whole, replace(order, stage=stage, out=tmp_path / "whole"))
    assert other.learner.steps == whole.learner.steps
    assert other.learner.calls == whole.learner.calls
