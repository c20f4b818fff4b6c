import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from video.config import VideoConfig, total_per_frame
from video.sampling import effective_fps, frame_indices


def sampled(total: int, **config: float) -> list[int]:
    return frame_indices(total, 10.0, VideoConfig.model_validate(config))


@pytest.mark.parametrize("total", [33, 34, 63, 100, 1801])
def test_a_long_clip_is_spread_as_deepintuit_does(total: int) -> None:
    assert sampled(total) == np.floor(np.linspace(0, total - 1, 32)).astype(int).tolist()


def test_a_clip_of_max_frames_is_taken_whole() -> None:
    assert sampled(32) == list(range(32))


def test_an_odd_count_drops_its_last_frame() -> None:
    assert sampled(7) == [0, 1, 2, 3, 4, 5]


def test_one_frame_is_doubled() -> None:
    assert sampled(1) == [0, 0]
    assert sampled(1, fps=2.0) == [0, 0]


def test_a_short_clip_repeats_its_last_frame() -> None:
    assert sampled(3, min_frames=6) == [0, 1, 1, 1, 1, 1]
    assert sampled(4, min_frames=6) == [0, 1, 2, 3, 3, 3]


def test_fps_takes_frames_at_that_rate() -> None:
    assert sampled(40, fps=2.0) == [0, 5, 10, 15, 20, 25, 30, 35]


def test_fps_stays_within_min_and_max_frames() -> None:
    assert sampled(100, fps=10.0, max_frames=4) == [0, 25, 50, 75]
    assert sampled(100, fps=0.1, min_frames=4) == [0, 25, 50, 75]


def test_fps_above_the_native_rate_takes_every_frame() -> None:
    assert sampled(6, fps=100.0) == [0, 1, 2, 3, 4, 5]


def test_fps_agrees_with_transformers() -> None:
    from transformers import Qwen2VLVideoProcessor
    from transformers.video_utils import VideoMetadata

    theirs = Qwen2VLVideoProcessor()
    for total in range(2, 200, 7):
        metadata = VideoMetadata(total_num_frames=total, fps=25.0)
        expected = theirs.sample_frames(metadata, min_frames=2, max_frames=16, fps=3.0).tolist()
        config = VideoConfig(fps=3.0, max_frames=16)
        assert frame_indices(total, 25.0, config) == expected, total


@st.composite
def configs(draw: st.DrawFn) -> VideoConfig:
    least = draw(st.integers(2, 40))
    return VideoConfig(
        fps=draw(st.none() | st.floats(0.01, 240)),
        min_frames=least,
        max_frames=draw(st.integers(least, 800)),
    )


@given(total=st.integers(1, 200_000), native_fps=st.floats(0.1, 240), config=configs())
def test_frames_are_even_in_number_in_order_and_within_bounds(
    total: int, native_fps: float, config: VideoConfig
) -> None:
    indices = frame_indices(total, native_fps, config)
    assert len(indices) % 2 == 0
    assert 2 <= len(indices) <= config.max_frames
    assert len(indices) >= min(config.min_frames, config.max_frames - config.max_frames % 2)
    assert indices == sorted(indices)
    assert (indices[0], indices[-1] < total) == (0, True)
    distinct = len(set(indices))
    assert indices[distinct:] == [indices[-1]] * (len(indices) - distinct)  # only the last repeats


@given(total=st.integers(2, 10_000), config=configs())
def test_frames_are_spread_evenly(total: int, config: VideoConfig) -> None:
    distinct = sorted(set(frame_indices(total, 30.0, config)))
    steps = {later - earlier for earlier, later in itertools.pairwise(distinct)}
    assert not steps or max(steps) - min(steps) <= 1


@given(fps=st.floats(0.1, 60), total=st.integers(200, 5000), native_fps=st.floats(5, 60))
def test_fps_gives_that_many_frames_a_second(fps: float, total: int, native_fps: float) -> None:
    config = VideoConfig(fps=fps, min_frames=2, max_frames=5000)
    wanted = min(total / native_fps * fps, total)
    assert wanted - 2 < len(frame_indices(total, native_fps, config)) <= max(wanted, 2)


@given(total_pixels=st.integers(10_000, 10**9), num_frames=st.integers(2, 768))
def test_total_pixels_bounds_the_tokens_of_a_clip(total_pixels: int, num_frames: int) -> None:
    num_frames -= num_frames % 2
    each = total_per_frame(total_pixels, num_frames)
    assert num_frames // 2 * each <= total_pixels < num_frames // 2 * (each + 1) + 1


def test_total_pixels_below_min_pixels_is_refused() -> None:
    fitting = VideoConfig(max_frames=8, min_pixels=100, total_pixels=400)
    assert total_per_frame(400, fitting.max_frames) == 100
    with pytest.raises(ValueError, match="leaves 99 pixels for each of max_frames=8"):
        VideoConfig(max_frames=8, min_pixels=100, total_pixels=399)


def test_a_clip_without_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        sampled(0)


def test_effective_fps_comes_from_the_times() -> None:
    assert effective_fps([0, 5, 10, 15], [0.0, 0.5, 1.0, 1.5], 10.0) == 2.0


def test_effective_fps_is_free_of_float32_noise() -> None:
    times = np.arange(0, 32, dtype=np.float32) / np.float32(4) + np.float32(1 / 3)
    assert effective_fps(list(range(32)), times.tolist(), 10.0) == 4.0


@pytest.mark.parametrize("hours", [0.01, 0.13, 1, 3, 24])
def test_the_effective_fps_of_a_long_clip_gives_its_times_back(hours: float) -> None:
    """Eight frames of three hours: rounded to 1/1000 their times were half as long again, those of
    a day none at all (reported of qwen-vl-utils: Qwen3-VL#1403)."""
    last = round(hours * 3600 * 30) - 1
    indices = [i * last // 7 for i in range(8)]
    times = [i / 30 for i in indices]
    assert 7 / effective_fps(indices, times, 30.0) == pytest.approx(times[-1], rel=1e-3)


def test_repeated_frames_do_not_change_the_effective_fps() -> None:
    assert effective_fps([0, 1, 1, 1], [0.0, 0.1, 0.1, 0.1], 10.0) == 10.0
    assert effective_fps([0, 0], [0.0, 0.0], 12.5) == 12.5


def test_times_that_stand_still_are_refused() -> None:
    with pytest.raises(ValueError, match="do not increase"):
        effective_fps([0, 1, 2], [0.0, 0.0, 0.0], 10.0)
