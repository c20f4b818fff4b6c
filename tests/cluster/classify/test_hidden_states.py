"""Clips that wait for their hidden states go through the model together, whoever stops waiting.

Those after a trace are held against the learner's in test_open.py, those of the video alone here.
"""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.classify.hidden_states import (
    HeadSource,
    HiddenStates,
    row_after_trace,
    row_after_video,
)
from cluster.classify.sources import AnsweredClip
from rollout.prompt import Prompts
from rollout.prompt_inputs import PromptInputs
from rollout.render import Renderer
from tests.tiny_models import write_tiny_model
from video.cache import ClipStore
from video.config import VideoConfig
from video.disk_cache.location import cache_folder
from video.positions import PositionRule
from video.processor import ClipProcessor
from wire.errors import GenerationError
from wire.labels import Label, LabelSet
from wire.token_arrays import TokenIds
from wire.types import Prompt, Sample, Split


class Reader(HeadSource):
    """Reads numbers for clips, once it is let go; keeps the batches."""

    def __init__(self) -> None:
        super().__init__(None, None)  # type: ignore[arg-type]
        self.batches: list[list[int]] = []
        self.go, self.fails = threading.Event(), False

    def _logprobs(self, answered: Sequence[Any]) -> np.ndarray:
        self.batches.append(list(answered))
        self.go.wait(10)
        if self.fails:
            raise RuntimeError("out of memory")
        return np.array([[float(one)] for one in answered])


async def ask(reader: Reader, count: int) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(reader.ask(number)) for number in range(count)]  # type: ignore
    while not reader.batches:
        await asyncio.sleep(0.001)
    return tasks


async def test_those_that_wait_are_read_together() -> None:
    reader = Reader()
    tasks = await ask(reader, 20)
    reader.go.set()
    scores = await asyncio.gather(*tasks)
    assert [float(one.logprobs[0]) for one in scores] == list(range(20))
    assert [len(batch) for batch in reader.batches] == [1, 16, 3], "the first waits for nobody"


async def test_one_who_stops_waiting_takes_nobody_along() -> None:
    reader = Reader()
    tasks = await ask(reader, 3)
    tasks[0].cancel()
    reader.go.set()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    scores = await asyncio.wait_for(asyncio.gather(*tasks[1:]), 10)
    assert [float(one.logprobs[0]) for one in scores] == [1, 2]
    assert reader.batches[1:] == [[1, 2]]


async def test_a_model_that_fails_fails_those_of_its_batch() -> None:
    reader = Reader()
    reader.fails = True
    tasks = await ask(reader, 2)
    reader.go.set()
    for task in tasks:
        with pytest.raises(GenerationError, match="no hidden states: out of memory"):
            await task


def test_a_head_over_the_video_alone_reads_the_same_state_whatever_the_trace_says(
    tmp_path: Path,
) -> None:
    from cluster.demo.clips import make_demo_data

    policy_dir = write_tiny_model(tmp_path / "policy", "qwen2_5_vl", seed=0)
    make_demo_data(tmp_path / "data", train=6, traces=1, val=1, cal=1, test=1)
    (video,) = (tmp_path / "data/clips/test").glob("*.mp4")
    sample = Sample(id="one", video=str(video), label="grow", split=Split.TEST)
    labels = LabelSet(labels=(Label(name="grow"), Label(name="left")))
    config = VideoConfig(max_frames=12, cache_dir=tmp_path / "cache")
    clips = ClipStore(cache_folder(config), ClipProcessor(policy_dir), config)
    inputs = PromptInputs(Renderer.load(policy_dir, 384), clips, Prompts(labels))
    clip = clips.get(str(video))
    asked = inputs.about(sample, "trace", clip)
    label_prompt = inputs.about(sample, "label", clip)
    assert isinstance(asked, Prompt)
    assert isinstance(label_prompt, Prompt)

    def answered(*token_ids: int) -> AnsweredClip:
        trace: Any = SimpleNamespace(token_ids=TokenIds(token_ids))
        return AnsweredClip(sample=sample, clip=clip, prompt=asked, trace=trace)

    states, row_of = HiddenStates.load(policy_dir, "float32", "cpu"), row_after_video(inputs)
    rows = [row_of(answered(5, 6)), row_of(answered(9, 10, 11))]
    first, second = states.at_ends(rows, {asked.clip_key: clip})
    np.testing.assert_array_equal(first, second)
    after = states.at_ends([row_after_trace(answered(5, 6))], {asked.clip_key: clip})[0]
    assert np.abs(after - first).max() > 1e-3, "a trace is another state"

    # the model itself, over the whole label prompt, without this project's packing of rows
    import torch

    ids = list(label_prompt.token_ids)
    places = PositionRule.load(policy_dir).of_prompt(ids, clip.grid_thw, clip.seconds_per_grid)
    with torch.no_grad():
        hidden = states._policy.vlm.model(
            input_ids=torch.tensor([ids]),
            pixel_values_videos=torch.from_numpy(clip.pixel_values),
            video_grid_thw=torch.tensor([clip.grid_thw]),
            position_ids=torch.from_numpy(places)[:, None],
        ).last_hidden_state[0, -1]
    np.testing.assert_allclose(first, hidden.numpy(), atol=1e-4)
