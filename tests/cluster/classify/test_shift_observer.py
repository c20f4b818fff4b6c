"""The monitor of shift in use: a pipeline whose engine writes what two policies of a demo run wrote
(tests/data/demo_traces.parquet); its state, its alarm, its acknowledgement."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from calibrate.decision import Evidence
from calibrate.shift.features import TraceFeatures, TraceReference
from cluster.classify import pipeline as module
from cluster.classify.pipeline import Pipeline
from cluster.classify.rows import Row
from cluster.classify.shift_observer import ShiftObserver, default_place, watch_for_shift
from rollout.render import Renderer
from tests.cluster.classify.answering_fakes import (
    LABELS,
    ScriptedEngine,
    calibration,
    make_pipeline,
    make_renderer,
    sample,
)
from wire.errors import ConfigError, DataError
from wire.types import Sample

TRACES = Path(__file__).parents[2] / "data/demo_traces.parquet"


def logprobs_of(policy: str, in_use: bool) -> dict[str, list[float]]:
    """Clip -> logprobs of its trace; of one half of the clips, or the other."""
    rows = pq.read_table(TRACES, filters=[("policy", "=", policy)]).to_pylist()
    order = np.random.default_rng(0).permutation(len(rows))
    half = order[len(rows) // 2 :] if in_use else order[: len(rows) // 2]
    return {rows[place]["sample_id"]: rows[place]["logprobs"] for place in half}


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return make_renderer()


@pytest.fixture
def classifier(tmp_path: Path, renderer: Renderer) -> Any:
    """The parts of a published classifier that the observer reads; its reference is of GRPO."""
    folder = tmp_path / "classifier"
    engine = ScriptedEngine(renderer)
    text = engine._trace("", 0)
    confidence = max(
        calibration({"verdict": 1.0}).calibrator.probabilities({"verdict": said(renderer)})[0]
    )
    features = [
        TraceFeatures.of(text, values, LABELS, float(confidence))
        for values in logprobs_of("grpo", in_use=False).values()
    ]
    TraceReference.of(features, LABELS.names).save(folder)
    return SimpleNamespace(
        path=folder,
        version="v1",
        description=SimpleNamespace(shown_label_set=LABELS),
        calibration=calibration({"verdict": 1.0}, 0.1),
    )


def said(renderer: Renderer) -> np.ndarray:
    """What the scripted verdict says of each clip."""
    codes = renderer.label_codes(LABELS)
    return np.array([[-float(codes[name][0] % 7) for name in LABELS.names]])


class WithLogprobs:
    """The monitor's observer, with the logprobs that the policy gave to that clip's trace."""

    def __init__(self, observer: ShiftObserver, logprobs: dict[str, list[float]]) -> None:
        self._observer, self._logprobs = observer, logprobs

    def observe(self, sample: Sample, evidence: Evidence) -> str | None:
        values = tuple(self._logprobs[sample.id])
        return self._observer.observe(sample, replace(evidence, trace_logprobs=values))


@contextmanager
def watching(
    classifier: Any, lines: list[str] | None = None, *, acknowledge: bool = False
) -> Iterator[ShiftObserver]:
    said = (lines if lines is not None else []).append
    place = default_place(classifier.path)
    with watch_for_shift(classifier, place, acknowledge=acknowledge, say=said) as observer:
        yield observer


async def serve(
    renderer: Renderer, observer: ShiftObserver, logprobs: dict[str, list[float]]
) -> list[Row]:
    pipeline = make_pipeline(
        ScriptedEngine(renderer),
        renderer,
        threshold=0.1,
        observer=WithLogprobs(observer, logprobs),
    )
    return [row async for row in pipeline.classify_all([sample(name) for name in logprobs])]


async def test_another_policys_traces_send_all_decisions_to_review_until_it_is_acknowledged(
    classifier: Any, renderer: Renderer
):
    served = logprobs_of("coldstart", in_use=True)
    with watching(classifier) as observer:
        rows = await serve(renderer, observer, served)
        text = "\n".join(observer.lines())
    assert text.startswith("SHIFT: served traces are not drawn like")
    assert "--acknowledge-shift" in text
    first = next(place for place, row in enumerate(rows) if row.decision == "review")
    assert 3 <= first <= 60
    assert {row.decision for row in rows[:first]} == {"auto"}
    assert {row.decision for row in rows[first:]} == {"review"}
    assert [reason.code for reason in rows[-1].reasons] == ["shift_alarm"]
    # the next command finds the alarm as it was left
    own = logprobs_of("grpo", in_use=True)
    with watching(classifier) as observer:
        rows = await serve(renderer, observer, dict(list(own.items())[:5]))
    assert {row.decision for row in rows} == {"review"}
    lines: list[str] = []
    with watching(classifier, lines, acknowledge=True) as observer:
        rows = await serve(renderer, observer, own)
    assert "acknowledged: tokens are less probable" in lines[0]
    assert {row.decision for row in rows} == {"auto"}


async def test_the_same_policys_traces_on_other_clips_raise_no_alarm(
    classifier: Any, renderer: Renderer
):
    own = logprobs_of("grpo", in_use=True)
    with watching(classifier) as observer:
        rows = await serve(renderer, observer, own)
        assert f"shift: no alarm in {len(own)} served traces" in "\n".join(observer.lines())
    assert {row.decision for row in rows} == {"auto"}
    with watching(classifier) as observer:
        assert observer.monitor.num_served == len(own)


def test_the_state_of_another_classifier_is_not_gone_on_with(classifier: Any):
    with watching(classifier) as observer:
        observer.monitor.observe(
            TraceFeatures(
                num_tokens=3, mean_logprob=-1.0, parsed=True, answer="undo", confidence=0.5
            )
        )
    lines: list[str] = []
    classifier.version = "v2"
    with watching(classifier, lines) as observer:
        assert observer.monitor.num_served == 0
    assert "was of another classifier" in lines[0]


def test_one_process_keeps_the_state(classifier: Any):
    refused = pytest.raises(ConfigError, match="--no-monitor")
    with watching(classifier), refused, watching(classifier):
        pass


def test_a_place_that_cannot_be_written_is_named_with_what_to_give(classifier: Any, tmp_path: Path):
    (tmp_path / "file").write_text("")
    place, said = tmp_path / "file" / "m", list[str]().append
    refused = pytest.raises(ConfigError, match="give --monitor DIR")
    with refused, watch_for_shift(classifier, place, acknowledge=False, say=said):
        pass


def test_damaged_state_is_named(classifier: Any):
    with watching(classifier):
        pass
    (default_place(classifier.path) / "monitor.json").write_text("{")
    with pytest.raises(DataError, match="is no state of a monitor"), watching(classifier):
        pass


async def test_traces_are_observed_in_the_order_of_the_clips_however_long_each_takes(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
):
    """Of several in flight the first takes longest."""
    import asyncio

    seen: list[str] = []

    class Noting:
        def observe(self, sample: Sample, evidence: Evidence) -> str | None:
            seen.append(sample.id)
            return None

    names = [f"{number}.mp4" for number in range(12)]
    written = module.Pipeline._trace

    async def slower(self: Pipeline, one: Any, *rest: Any) -> Any:
        await asyncio.sleep(0.002 * (11 - int(one.id.partition(".")[0]) % 12))
        return await written(self, one, *rest)

    monkeypatch.setattr(module.Pipeline, "_trace", slower)
    pipeline = make_pipeline(ScriptedEngine(renderer), renderer, in_flight=6, observer=Noting())
    rows: Sequence[Row] = [row async for row in pipeline.classify_all(map(sample, names))]
    assert [row.id for row in rows] == seen == names
