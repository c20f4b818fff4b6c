import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from cluster.config.recipe import RunConfig, read_recipe
from cluster.inputs.shown_prompt import choose_sample, kinds_asked, shown_prompts
from wire.config import validate
from wire.errors import DataError

Write = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


def test_without_an_id_it_is_the_first_sample_with_a_teachers_trace(recipe: Write):
    config = read_recipe(recipe(), [])
    assert choose_sample(config, None).trace
    (trace, verdict, label) = shown_prompts(
        config, choose_sample(config, None), ("trace", "verdict", "label"), with_tokens=False
    )
    assert trace.target == choose_sample(config, None).trace
    assert verdict.target == label.target == trace.label
    assert (verdict.reviewed, trace.version) == ("the teacher's trace", "1")


def test_a_verdict_of_a_sample_without_a_trace_is_shown_with_a_made_up_one(recipe: Write):
    config = read_recipe(recipe(lambda rows: [row.update(trace=None) for row in rows]), [])
    sample = choose_sample(config, None)
    trace, verdict = shown_prompts(config, sample, ("trace", "verdict"), with_tokens=False)
    assert trace.target is None
    assert verdict.reviewed == "a made-up trace"
    assert "Conclusion: relapse" in verdict.turns[-1].text


def test_a_sample_that_is_not_there_is_answered_with_the_nearest(recipe: Write):
    config = read_recipe(recipe(), [])
    known = choose_sample(config, None).id
    with pytest.raises(DataError, match=f"has no sample '{known}x'; did you mean '{known}'"):
        choose_sample(config, f"{known}x")


def test_tokens_are_those_of_the_prompt_that_a_run_makes(recipe: Write, tmp_path: Path):
    from rollout.render import Renderer
    from video.cache import ClipStore
    from video.processor import ClipProcessor

    config = read_recipe(recipe(), ["prompts.system=a same {id}"])
    sample = choose_sample(config, None)
    (shown,) = shown_prompts(config, sample, ("trace",), with_tokens=True)
    renderer = Renderer.load(config.model, 1000)
    clip = ClipStore(tmp_path / "cache", ClipProcessor(config.model), config.video).get(
        sample.video
    )
    ids = renderer.prompt(config.prompt_set.trace(sample), clip).token_ids
    assert shown.tokens is not None
    assert shown.tokens.video is not None
    assert shown.tokens.text + shown.tokens.video == len(ids)
    assert shown.tokens.chat.startswith(f"<|im_start|>system\na same {sample.id}<|im_end|>")
    assert shown.tokens.chat.count("<|video_pad|>") == 1


def test_a_clip_that_cannot_be_read_hides_no_text(recipe: Write, tmp_path: Path, capsys: Capture):
    (tmp_path / "bad.mp4").write_bytes(b"no clip")
    path = recipe(lambda rows: [row.update(video=str(tmp_path / "bad.mp4")) for row in rows])
    assert main(["prompts", str(path), "--kind", "label", "--tokens"]) == 0
    out = capsys.readouterr().out
    assert "Decide which label" in out
    assert "of text; the clip cannot be read: " in out


def test_the_command_prints_turns_clip_and_target(recipe: Write, capsys: Capture):
    path = recipe(lambda rows: [row.update(title=f"clip {n}\x1b[2J") for n, row in enumerate(rows)])
    settings = ["--set", "prompts.label={title}: {labels}?", "--set", "prompts.system=Be brief."]
    assert main(["prompts", str(path), *settings, "--kind", "label"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("=== prompts.label, version ")
    assert lines[1:4] == ["--- system", "Be brief.", "--- user"]
    assert lines[4].startswith("[clip /")
    assert "\\x1b[2J: " in lines[5]
    assert lines[5].endswith(": relapse, repeat, undo, varied, zigzag?")
    assert main(["prompts", str(path), *settings, "--json"]) == 0
    values: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [value["kind"] for value in values] == ["trace", "verdict", "label"]
    assert values[2]["turns"][0]["text"] == "Be brief."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{titel} {labels}", "no column 'titel' for {titel}; did you mean 'title'?"),
        ("{note} {labels}", "rows have no value in column 'note', which prompts.trace shows"),
        ("{answer} {labels}", "column 'answer' holds the label itself"),
        ("{kind} {labels}", "column 'kind' is a code of the label"),
    ],
)
def test_a_prompt_that_no_run_would_take_is_refused(
    recipe: Write, capsys: Capture, text: str, message: str
):
    def change(rows: list[dict[str, Any]]) -> None:
        for number, row in enumerate(rows):
            row |= {"title": f"clip {number}", "answer": row["label"], "kind": len(row["label"])}
            row["kind"] = {"relapse": 1, "undo": 2, "repeat": 3, "zigzag": 4, "varied": 5}[
                row["label"]
            ]
        rows[0]["note"] = "x"

    path = recipe(change)
    assert main(["prompts", str(path), "--set", f"prompts.trace={text}"]) == 2
    assert message in capsys.readouterr().err


def test_rationales_are_shown_as_the_recipes_stage_asks_for_them(recipe: Write):
    config = read_recipe(recipe(), [])
    assert kinds_asked(config) == ("trace", "verdict", "label")
    stages = [
        {"name": "why", "kind": "rationales", "hint": False},
        {"name": "shown", "kind": "rationales", "task": "caption"},
    ]
    values = {**config.model_dump(mode="json", by_alias=True), "stages": stages}
    without = validate(RunConfig, values, "recipe")
    assert kinds_asked(without) == ("trace", "verdict", "label", "rationale", "caption")
    sample = choose_sample(config, None)
    for one, version in ((config, "rationale-1+hint-1"), (without, "rationale-1")):
        (shown,) = shown_prompts(one, sample, ("rationale",), with_tokens=False)
        assert (shown.version, shown.target) == (version, None)
        assert (f"is {sample.label}" in shown.turns[-1].text) == (one is config)
