"""The other families on the real engines: the same promises as Qwen2.5-VL's in test_parity."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.runs import plain_vllm, write_clip
from video.config import VideoConfig
from video.decode import decode

pytestmark = [pytest.mark.ray, pytest.mark.slow]

EXACT = 1e-5
Open = Callable[[Any], AbstractContextManager[Any]]


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen3_vl"])
def stage(
    request: pytest.FixtureRequest, make_place: Callable[[str], Any], open_stage: Open
) -> Iterator[Any]:
    """One engine and one learner of a family."""
    import ray

    ray.cloudpickle.register_pickle_by_value(request.module)
    with open_stage(make_place(request.param)) as stage:
        yield stage


def test_engine_and_learner_agree_before_and_after_an_update(stage: Any) -> None:
    clips = stage.samples[:2]
    before = stage.gap(clips), stage.gap(clips, n=1, temperature=0.0)
    stage.train()
    between = stage.gap(clips)
    stage.publish()
    after = stage.gap(clips), stage.gap(clips, n=1, temperature=0.0)
    assert between > 1e-3
    assert max(before + after) < EXACT


def test_the_probe_gives_the_logprobs_of_an_answer_as_it_was_sampled(stage: Any) -> None:
    stage.publish()
    (rollout,) = stage.answer(stage.samples[:1])
    assert stage.probe(stage.samples[0], rollout.prompt, rollout.completions) < EXACT


def test_embeddings_in_place_of_pixels_give_the_same_logprobs(stage: Any, tmp_path: Path) -> None:
    assert stage.embeddings_agree(stage.samples[4], tmp_path) < EXACT


def test_many_groups_computed_in_parts_agree(stage: Any) -> None:
    """More prompt tokens at once than one pass takes: clips are cut where their text stands too."""
    stage.publish()
    assert stage.gap(stage.samples[:24], seed=7) < EXACT


def test_a_prompt_has_the_ids_of_the_models_own_processor_call(stage: Any) -> None:
    from transformers import AutoProcessor

    (rollout,) = stage.answer(stage.samples[:1])
    clip = decode(stage.samples[0].video, VideoConfig())
    (message,) = stage.prompts.trace(stage.samples[0])
    content = [{"type": "video"}, {"type": "text", "text": message.text}]
    processor = AutoProcessor.from_pretrained(stage.where.model)
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    count = len(clip.frames)
    metadata = {"total_num_frames": count, "fps": clip.fps, "frames_indices": list(range(count))}
    own = processor(
        text=[text],
        videos=[clip.frames],
        videos_kwargs={"do_sample_frames": False, "video_metadata": [metadata]},
    )
    assert list(rollout.prompt.token_ids) == list(own["input_ids"][0])


@pytest.mark.parametrize(
    ("size", "fps", "times_ms"),
    [
        ((84, 56), 2, ()),
        ((56, 140), 10, ()),
        ((224, 168), 1, ()),
        ((84, 56), 10, (0, 100, 1000, 1100, 1200, 7500)),
    ],
    ids=["short", "tall", "large", "uneven"],
)
def test_clips_of_other_shapes_and_speeds_agree_too(
    stage: Any, size: tuple[int, int], fps: int, times_ms: tuple[int, ...]
) -> None:
    width, height = size
    frames = len(times_ms) or 4 * fps
    path = stage.where.root / f"{width}x{height}-{len(times_ms)}.mp4"
    video = write_clip(path, width, height, fps, frames, times_ms)
    if times_ms:
        expected = [time / 1000 for time in times_ms]
        assert decode(video, VideoConfig()).timestamps_s == pytest.approx(expected, abs=1e-3)
    sample = replace(stage.samples[0], id="other", video=str(video))
    stage.publish()
    assert stage.gap([sample]) < EXACT
    (rollout,) = stage.answer([sample])
    assert stage.probe(sample, rollout.prompt, rollout.completions) < EXACT


def test_plain_vllm_opens_an_exported_model_and_writes_the_same(stage: Any) -> None:
    exported, sample = stage.where.root / "exported", stage.samples[0]
    stage.publish()
    stage.get(stage.learner.export.remote(exported))
    (rollout,) = stage.answer([sample], n=1, temperature=0.0)
    answer = plain_vllm(exported, sample.video, stage.prompts.trace(sample))
    assert answer["prompt"] == list(rollout.prompt.token_ids)
    assert answer["response"] == list(rollout.completions[0].token_ids)
