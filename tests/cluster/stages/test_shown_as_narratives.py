"""Stages whose input is narratives, with fake engines and a real tokenizer on disk."""

import asyncio
from pathlib import Path
from typing import Any

from cluster.inputs.narration import codes_path, tokenizer_folder
from cluster.stages.stage import run_stage
from cluster.stages.stage_functions import stage_run
from tests.cluster.session_fakes import (
    FakeEngines,
    FakeLearner,
    FakeMemory,
    make_config,
    make_run_dir,
    make_samples,
    open_fakes,
)
from tests.video.semantic_tokens.builders import tokenizer
from video.address import View, with_tokens
from video.semantic_tokens.codes_file import write_codes
from wire.archive.archive import read_groups
from wire.types import Purpose

STAGES: list[dict[str, Any]] = [
    {"name": "vst", "kind": "semantic_tokens"},
    {"name": "told", "kind": "evaluate", "input": "tokens", "view": "dropped"},
    {"name": "seen", "kind": "evaluate"},
    {"name": "taught", "kind": "sft", "data": "labels", "input": "tokens", "epochs": 1},
    {"name": "refined", "kind": "grpo", "input": "tokens", "num_steps": 1},
]
VERSION = tokenizer().version


def run(tmp_path: Path, *names: str) -> tuple[FakeEngines, FakeLearner, list[Any]]:
    """Run these stages after the tokenizer's; also the archived groups."""
    config, samples = make_config(stages=STAGES), make_samples()
    run_dir = make_run_dir(tmp_path, config)
    tokenizer().save(tokenizer_folder(run_dir.path, "vst"))
    write_codes(codes_path(run_dir.path, "vst"), VERSION, 8, [])
    run_dir.finish("vst", {})
    memory: Any = FakeMemory()
    with open_fakes(config, run_dir, samples, ("base-model", 0)) as (session, *fakes, _):

        async def stages() -> None:
            for name in names:
                await run_stage(session, stage_run(config, run_dir, name), memory)

        asyncio.run(stages())
        groups = list(read_groups(run_dir.archive))
    return *fakes, groups


def test_an_evaluation_shows_narratives_under_its_view_and_the_next_stage_videos(tmp_path: Path):
    engines, learner, groups = run(tmp_path, "told", "seen")
    tests = [f"/clips/test-{n}.mp4" for n in range(4)]
    told = [f"{video}#tokens={VERSION}&view={View.DROPPED}" for video in tests]
    assert sorted(video for _, video in engines.wrote) == sorted([*told, *tests])
    assert {group.sample.video for group in groups} == {*told, *tests}
    assert all(group.purpose is Purpose.EVALUATION for group in groups)
    (narration,) = engines.narrations
    assert [narration] == learner.narrations
    assert narration.folder == tokenizer_folder(tmp_path / "run", "vst")


def test_sft_and_grpo_learn_from_narratives_and_are_measured_on_them(tmp_path: Path):
    engines, learner, groups = run(tmp_path, "taught", "refined")
    videos = {row.video for _, rows in learner.steps for row in rows}
    videos |= {row.video for row in learner.scored}
    videos |= {video for _, video in engines.wrote}
    probes = {video for video in videos if "#tokens=" not in video}
    assert len(probes) <= 1, "but for the clip that weights are proven on"
    assert with_tokens("/clips/train-0.mp4", VERSION) in videos
    assert {group.purpose for group in groups} == {Purpose.TRAIN, Purpose.EVALUATION}


def test_an_attempt_that_begins_with_such_a_stage_tells_all_where_the_tokenizer_is(tmp_path: Path):
    engines, learner, _ = run(tmp_path, "refined")
    assert len(engines.narrations) == len(learner.narrations) == 1
