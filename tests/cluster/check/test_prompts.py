from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.check.prompts import PromptLengths, prompt_findings, trace_findings
from cluster.config.recipe import RunConfig, read_recipe
from rollout.render import Renderer
from tests.cluster.check.builders import LABELS, levels, make_sample, make_scan, only, scans_of
from video.processor import ClipProcessor
from wire.finding import Level
from wire.types import Split

Recipe = Callable[..., Path]


@pytest.fixture
def config(recipe: Recipe) -> RunConfig:
    return read_recipe(recipe(), ["data.use_side_text=true", "rollout.max_prompt_length=200"])


def prompt_lengths_of(config: RunConfig) -> PromptLengths:
    renderer = Renderer.load(config.model, config.rollout.max_prompt_length)
    return PromptLengths(config, renderer, ClipProcessor(config.model))


def test_the_longest_prompt_is_found_by_tokens_and_not_by_bytes(config: RunConfig):
    # one long word is one unknown token to the demo's tokenizer, or a few; twenty words are more
    samples = [
        make_sample("long", text="x" * 60),
        make_sample("many", text=" ".join(["same"] * 14)),
        make_sample("none"),
    ]
    longest, over = prompt_lengths_of(config).measure(samples, scans_of(*samples))
    renderer = Renderer.load(config.model, 200)
    tokens = {s.id: renderer.num_text_tokens(config.prompt_set.trace(s)) for s in samples}
    assert longest is not None
    assert (longest.sample.id, longest.text) == (
        max(tokens, key=lambda i: tokens[i]),
        max(tokens.values()),
    )
    assert over == []


def test_text_tokens_and_placeholders_add_up_to_the_prompt(config: RunConfig, demo: Path):
    from video.cache import ClipStore

    processor = ClipProcessor(config.model)
    video = str(next((demo / "data").rglob("*.mp4")))
    clip = ClipStore(demo / "cache", processor, config.video).get(video)
    renderer = Renderer.load(config.model, 400)
    messages = config.prompt_set.trace(make_sample(text="a <|video_pad|> text"))
    prompt = renderer.prompt(messages, clip)
    assert len(prompt.token_ids) == renderer.num_text_tokens(messages) + len(clip.placeholder_ids)


def test_one_long_prompt_of_many_is_a_warning_and_too_many_end_a_run(config: RunConfig):
    long = make_sample("long", text="same " * 300)
    samples = [long, *(make_sample(str(n)) for n in range(9))]
    finding = only(
        prompt_findings(config, samples, scans_of(*samples), prompt_lengths_of(config)),
        Level.WARNING,
    )
    assert "1 of 10 prompts are longer than rollout.max_prompt_length = 200" in finding.what
    assert finding.where[0].startswith("long: ")
    few = samples[:3]
    worse = only(
        prompt_findings(config, few, scans_of(*few), prompt_lengths_of(config)), Level.ERROR
    )
    assert "which ends a run" in worse.what


def test_a_long_prompt_outside_of_train_is_a_warning(config: RunConfig):
    samples = [make_sample("long", text="same " * 300, split=Split.TEST), make_sample("a")]
    found = prompt_findings(config, samples, scans_of(*samples), prompt_lengths_of(config))
    assert levels(found) == [Level.WARNING, Level.OK]


def test_frames_that_the_model_does_not_take_are_said(config: RunConfig):
    samples = [make_sample("thin"), make_sample("a")]
    scans = {**scans_of(*samples), "/data/thin.mp4": make_scan(height=2, width=4000)}
    finding = only(
        prompt_findings(config, samples, scans, prompt_lengths_of(config)), Level.WARNING
    )
    assert finding.where == ("/data/thin.mp4: 4000 x 2",)


def trace(label: str, words: int = 3) -> str:
    return f"<think>{' a' * words}</think><answer>{label}</answer>"


def words_of(text: str) -> int:
    return len(text.split()) + 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (trace("normal"), "conclude with another label"),
        (trace("jump"), "no think block or no known answer"),
        ("<answer>fall</answer>", "no think block or no known answer"),
        (trace("fall", words=100), "longer than rollout.max_response_length = 50, up to 102"),
    ],
)
def test_a_trace_that_teaches_the_wrong_thing_is_said(text: str, said: str):
    rows = [make_sample(name, label=name, trace=trace(name)) for name in LABELS.names]
    bad = make_sample("bad", trace=text)
    finding = only(trace_findings(LABELS, [*rows, bad], words_of, 50), Level.WARNING)
    assert said in finding.what
    assert len(finding.where) == 1
    assert finding.where[0].startswith("bad")
    assert levels(trace_findings(LABELS, rows, words_of, 50)) == [Level.OK]


def test_labels_that_no_trace_shows_are_said():
    finding = only(
        trace_findings(LABELS, [make_sample(trace=trace("fall"))], None, 9), Level.WARNING
    )
    assert finding.where == ("brush hair", "normal")


def test_a_short_trace_is_not_given_to_the_tokenizer():
    def never(text: str) -> int:
        raise AssertionError(text)

    trace_findings(LABELS, [make_sample(trace=trace("fall"))], never, 2048)
