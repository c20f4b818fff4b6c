"""What each source asks an engine, and what it makes of the answer."""

import numpy as np
import pytest

from calibrate.calibrator import log_shares
from cluster.classify.sources import AnsweredClip, VerdictSource, VoteSource
from rollout.engine import Sampling
from rollout.lora import Adapter
from rollout.prompt import Prompts, VerdictPrompt
from rollout.prompt_inputs import PromptInputs
from rollout.render import Renderer
from tests.cluster.classify.answering_fakes import (
    LABELS,
    NAMES,
    POLICY,
    TRACE,
    Clips,
    ScriptedEngine,
    make_pipeline,
    make_renderer,
    sample,
)
from wire.types import Completion, FinishReason, stable_seed


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return make_renderer()


async def answered(renderer: Renderer, trace: str = TRACE) -> AnsweredClip:
    inputs = PromptInputs(renderer, Clips(), Prompts(LABELS))  # type: ignore[arg-type]
    prompted = await inputs.of(sample("a.mp4"), "trace")
    assert isinstance(prompted, tuple)
    ids = renderer.target(trace)
    completion = Completion(
        token_ids=ids,  # type: ignore[arg-type]
        logprobs=[-0.5] * len(ids),  # type: ignore[arg-type]
        text=trace,
        finish_reason=FinishReason.STOP,
        policy_version=POLICY,
    )
    return AnsweredClip(
        sample=sample("a.mp4"), clip=prompted[1], prompt=prompted[0], trace=completion
    )


async def test_the_policy_is_asked_for_every_label_in_place_of_the_one_it_wrote(
    renderer: Renderer,
) -> None:
    engine = ScriptedEngine(renderer)
    source = make_pipeline(engine, renderer, weights={"policy": 1.0})._answering.sources["policy"]
    clip = await answered(renderer)
    scores = await source.ask(clip)
    ((prompt, codes, adapter),) = engine.asked
    assert adapter is None
    assert scores.logprobs.tolist() == [-float(code[0] % 7) for code in codes]
    written = tuple(prompt.token_ids[len(clip.prompt.token_ids) :])
    for name, code in zip(NAMES, codes, strict=True):
        text = renderer.text((*written, *code))
        assert text.startswith("<think>left then left</think><answer>" + name)


async def test_a_policy_that_did_not_reason_says_nothing(renderer: Renderer) -> None:
    engine = ScriptedEngine(renderer)
    source = make_pipeline(engine, renderer, weights={"policy": 1.0})._answering.sources["policy"]
    scores = await source.ask(await answered(renderer, "<answer>undo</answer>"))
    assert np.isnan(scores.logprobs).all()
    assert engine.asked == []


async def test_the_verdict_reads_the_trace_and_answers_with_label_codes(
    renderer: Renderer,
) -> None:
    engine = ScriptedEngine(renderer)
    inputs = PromptInputs(renderer, Clips(), Prompts(LABELS))  # type: ignore[arg-type]
    codes = [(5,), (6, 1), (8,)]
    adapter = Adapter(number=1, version=POLICY, path="/adapter")
    source = VerdictSource(engine, inputs, codes, adapter)  # type: ignore[arg-type]
    await source.ask(await answered(renderer))
    ((prompt, asked, used),) = engine.asked
    assert (asked, used) == (tuple(codes), adapter)
    expected = await inputs.of(sample("a.mp4"), VerdictPrompt(TRACE))
    assert isinstance(expected, tuple)
    assert prompt == expected[0]


async def test_votes_are_counted_and_smoothed(renderer: Renderer) -> None:
    answers = ["undo", "undo", "repeat", None]

    def trace(video: str, number: int) -> str:
        answer = answers[number]
        return f"<think>x</think><answer>{answer}</answer>" if answer else "<think>x</think>"

    engine = ScriptedEngine(renderer, trace)
    inputs = PromptInputs(renderer, Clips(), Prompts(LABELS))  # type: ignore[arg-type]
    sampling = Sampling(n=4, temperature=1.0, max_tokens=9, seed=3)
    source = VoteSource(engine, inputs, LABELS, sampling)  # type: ignore[arg-type]
    scores = await source.ask(await answered(renderer))
    assert scores.votes == {"repeat": 1, "undo": 2, "varied": 0}
    assert np.exp(scores.logprobs) == pytest.approx([4 / 15, 7 / 15, 1 / 15])
    (asked,) = engine.samplings
    assert (asked.n, asked.temperature) == (4, 1.0)
    assert asked.seed == stable_seed("calibration", 3, "a.mp4"), "as in a fit"


def test_a_unanimous_vote_leaves_every_label_possible() -> None:
    logprobs = log_shares(["b"] * 8, ("a", "b"))
    assert np.exp(logprobs) == pytest.approx([0.5 / 9, 8.5 / 9])
