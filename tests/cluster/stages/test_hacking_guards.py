"""A whole training by GRPO with a policy that cheats, and one that does not: who is warned of what.
Engines and learner are fakes; session, scorer, archive and renderer are real."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.resume.loop_state import LoopState
from cluster.stages.grpo.stage import train_grpo
from reward.hacking_alerts import SIGNALS, steps_before_alert
from rollout.prompt import Prompts
from rollout.render import Renderer
from rollout.worker import Rollout
from tests.cluster.session_fakes import (
    FIRST_STEP,
    NAMES,
    FakeEngines,
    FakeMetrics,
    Write,
    grpo_run,
    make_config,
    make_run_dir,
    make_samples,
    open_fakes,
)
from video.processor import PLACEHOLDER
from wire.types import Prompt, Sample, Split, stable_seed

GROUPS = 16
STEPS = steps_before_alert(GROUPS) + 7
TRAIN = [sample for sample in make_samples(train=40) if sample.split is Split.TRAIN]
WORDS = ("up", "down", "left", "right", "then", "again", "turn", "back")


class ReadingEngines(FakeEngines):
    """Renders prompts, as workers do; ``with_text``: with the sample's side text."""

    with_text = False

    async def answer(
        self, sample: Sample, sampling: Any, upcoming: str | None = None, ask: Any = "trace"
    ) -> Rollout:
        rollout = await super().answer(sample, sampling, upcoming, ask)
        return replace(rollout, prompt=self.ask(self._renderer, sample))

    def ask(self, renderer: Renderer, sample: Sample) -> Prompt:
        prompts = Prompts(make_config().label_set, use_side_text=self.with_text)
        messages = prompts.trace(sample)
        ids = renderer._ids(renderer._text(messages))
        return Prompt(token_ids=ids, clip_key=sample.video, fingerprint="f")


class TellingEngines(ReadingEngines):
    with_text = True


def chance(*parts: object) -> float:
    return stable_seed(*parts) / 0x7FFF_FFFF


def thought(*parts: object, num: int = 6) -> str:
    return " ".join(WORDS[int(chance(*parts, i) * len(WORDS)) % len(WORDS)] for i in range(num))


def write(think: str, answer: str) -> str:
    return f"<think>{think}</think><answer>{answer}</answer>"


def honest(weights: str, sample: Sample, index: int) -> str:
    """Right in 60%, its own reasoning each time, a format slip now and then."""
    at = (weights, sample.id, index)
    label = sample.label if chance("right", *at) < 0.6 else NAMES[int(chance("else", *at) * 4.99)]
    text = write(thought(*at, num=5 + int(4 * chance("length", *at))), label)
    return text if chance("slip", *at) > 0.05 else text.removesuffix("</answer>")


def longer(weights: str, sample: Sample, index: int) -> str:
    """Honest answers, after many words once the first steps are over."""
    words = 6 if weights.count("+") < 5 else 40
    answer = honest(weights, sample, index).partition("<answer>")[2]
    return f"<think>{thought(weights, sample.id, index, num=words)}</think><answer>{answer}"


def well_formed(weights: str, sample: Sample, index: int) -> str:
    """Answers that do not look at the clip."""
    at = (weights, sample.id, index)
    return write(thought(*at), NAMES[int(chance("any", *at) * 4.99)])


def one_label(weights: str, sample: Sample, index: int) -> str:
    return write(thought(weights, sample.id, index), "undo")


def same(weights: str, sample: Sample, index: int) -> str:
    """One trace for all of a group, right in 60% of them."""
    right = chance("right", weights, sample.id) < 0.6
    return write(thought(weights, sample.id), sample.label if right else "varied")


async def train(
    path: Path, policy: Write, make_engines: type[FakeEngines] = ReadingEngines, **changes: Any
) -> FakeMetrics:
    grpo = {"num_steps": STEPS, "groups_per_step": GROUPS, "save_every": 4}
    config = make_config(grpo=grpo, rollout={"group_size": 4, "dtype": "float32"}, **changes)
    samples = [replace(sample, text=f"seen: {sample.label}, at noon") for sample in TRAIN]
    run_dir = make_run_dir(path, config)
    start = ("base", FIRST_STEP)
    with open_fakes(config, run_dir, samples, start, make_engines) as (session, engines, _, kept):
        engines.write = policy
        await train_grpo(session, grpo_run(session))
    run_dir.close()
    return kept


def flagged(metrics: FakeMetrics) -> set[str]:
    """Signals whose warning stood at the last step."""
    return {signal.name for signal in SIGNALS if metrics.values[-1].get(signal.flag)}


@pytest.mark.parametrize(
    ("policy", "engines", "expected"),
    [
        (honest, ReadingEngines, set()),
        (longer, ReadingEngines, {"length_drift"}),
        (well_formed, ReadingEngines, {"format_only"}),
        (one_label, ReadingEngines, {"format_only", "one_label"}),
        (same, ReadingEngines, {"identical_traces"}),
        (honest, TellingEngines, {"label_in_prompt"}),
    ],
)
async def test_a_policy_that_cheats_is_warned_of_once_and_an_honest_one_never(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    policy: Write,
    engines: type[FakeEngines],
    expected: set[str],
):
    with caplog.at_level(logging.WARNING, "cluster.stages.hacking_guards"):
        metrics = await train(tmp_path, policy, engines)
    assert flagged(metrics) == expected
    said = [
        record.getMessage()
        for record in caplog.records
        if record.name == "cluster.stages.hacking_guards"
    ]
    titles = {signal.title for signal in SIGNALS if signal.name in expected}
    assert len(said) == len(titles)
    assert {title for title in titles if any(title in line for line in said)} == titles
    assert len(metrics.values) == STEPS, "no guard ends a run"


async def test_without_a_format_term_its_signal_is_absent_and_not_zero(tmp_path: Path):
    reward = {"terms": [{"function": "accuracy"}]}
    metrics = await train(tmp_path, well_formed, reward=reward)
    names = {name for values in metrics.values for name in values}
    assert not [name for name in names if name.startswith("guard/format")]
    assert "guard/answer_entropy" in names


async def test_what_the_guards_remember_is_in_each_checkpoint(tmp_path: Path):
    await train(tmp_path, one_label)
    folder = tmp_path / "run/checkpoints/grpo"
    early, last = sorted(folder.iterdir())[0], sorted(folder.iterdir())[-1]
    assert LoopState.read(last).guards.beyond["one_label"] == STEPS
    assert LoopState.read(early).guards.beyond["one_label"] < STEPS
    assert LoopState.read(last).guards.num_baseline == 5


def test_a_prompt_is_read_from_its_tokens_without_its_clip():
    from tests.cluster.session_fakes import load_renderer

    renderer, labels = load_renderer(), make_config().label_set
    sample = replace(TRAIN[0], text="it fell")
    messages = Prompts(labels, use_side_text=True).trace(sample)
    before, after = renderer._text(messages).split(PLACEHOLDER)
    start, pad, end = renderer._ids(PLACEHOLDER)
    time = renderer._ids("undo 0.3")
    clip = (start, *time, start, pad, pad, end, *time, start, pad, end, end)
    ids = (*renderer._ids(before), *clip, *renderer._ids(after))
    prompt = Prompt(token_ids=ids, clip_key="k", fingerprint="f")
    text = renderer.text(renderer.around_clip(prompt))
    assert text == renderer.text_of(messages)
    assert "it fell" in text
    assert "0.3" not in text
