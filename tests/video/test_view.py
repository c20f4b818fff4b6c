from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from video.address import Address, View, with_view
from video.cache import ClipStore
from video.config import VideoConfig
from video.decode import DecodedClip
from video.processor import ClipProcessor, ProcessedClip
from video.view import apply_view
from wire.errors import ClipError, ParityError
from wire.types import Sample, Split

MakeClip = Callable[..., Path]
CONFIG = VideoConfig(max_frames=8)
OF_FRAMES = [view for view in View if not view.needs_tokens]


@pytest.fixture
def store(tmp_path: Path, processor: ClipProcessor) -> ClipStore:
    """With the model's own kind of processor."""
    return ClipStore(tmp_path / "cache", processor, CONFIG)


def frames_of(clip: ProcessedClip) -> npt.NDArray[np.float32]:
    """Processed frames, [T, patches, values]: a patch row holds channels of two frames."""
    t, h, w = clip.grid_thw
    parts = clip.pixel_values.reshape(t, h * w, 3, 2, -1)
    return np.moveaxis(parts, 3, 1).reshape(2 * t, h * w, -1)


def make_decoded(brightness: list[int]) -> DecodedClip:
    """One frame of 1 x 1 per brightness, half a second apart."""
    grey = np.array(brightness, np.uint8).reshape(-1, 1, 1, 1)
    return DecodedClip(
        frames=np.repeat(grey, 3, axis=3),
        frame_indices=tuple(range(100, 100 + len(brightness))),
        timestamps_s=tuple(i / 2 for i in range(len(brightness))),
        fps=2.0,
        total_frames=len(brightness),
        native_fps=2.0,
        seconds=len(brightness) / 2,
    )


def order_of(clip: DecodedClip) -> list[int]:
    return [int(value) for value in clip.frames[:, 0, 0, 0]]


# --- addresses


def test_a_plain_address_has_no_view() -> None:
    assert Address.parse("clips/a.mp4") == Address(path=Path("clips/a.mp4"))
    assert Address.parse(Path("clips/a#1.mp4")) == Address(path=Path("clips/a#1.mp4"))


@pytest.mark.parametrize("view", OF_FRAMES)
def test_an_address_with_a_view_is_taken_apart_again(view: View) -> None:
    address = Address(path=Path("clips/a.mp4"), view=view)
    assert Address.parse(with_view("clips/a.mp4", view)) == address
    assert with_view(with_view("clips/a.mp4", view), None) == "clips/a.mp4"


def test_another_view_replaces_the_present_one() -> None:
    assert with_view("a.mp4#view=blank", View.REVERSED) == "a.mp4#view=reversed"


def test_the_view_of_a_sample_changes_nothing_but_its_clip() -> None:
    sample = Sample(id="s", video="a.mp4", label="x", split=Split.TEST, extra={"camera": 3})
    seen = with_view(sample, View.SHUFFLED)
    assert seen.video == "a.mp4#view=shuffled"
    assert with_view(seen, None) == sample


@pytest.mark.parametrize("name", ["", "Blank", "blank ", "upside down"])
def test_an_unknown_view_is_an_error_that_lists_the_known(name: str) -> None:
    with pytest.raises(ClipError, match="known: blank, shuffled, reversed") as caught:
        Address.parse(f"clips/a.mp4#view={name}")
    assert repr(name) in str(caught.value)


def test_a_file_that_is_named_like_a_view_is_found(tmp_path: Path) -> None:
    for name in ("a.mp4#view=blank", "a#view=x.mp4"):
        file = tmp_path / name
        file.write_bytes(b"")
        assert Address.parse(file) == Address(path=file)
        assert Address.parse(with_view(str(file), View.REVERSED)) == Address(
            path=file, view=View.REVERSED
        )


def test_a_folder_that_is_named_like_a_view_asks_for_none() -> None:
    assert Address.parse("/data#view=x/a.mp4") == Address(path=Path("/data#view=x/a.mp4"))


def test_an_address_that_no_system_could_open_is_a_clip_error(store: ClipStore) -> None:
    for address in ("a" * 300 + "#view=blank", "#view=blank", "..#view=blank"):
        with pytest.raises(ClipError, match="cannot read"):
            store.get(address)


# --- pixels


@pytest.mark.parametrize("view", OF_FRAMES)
def test_a_view_keeps_size_number_and_times(view: View) -> None:
    clip = make_decoded([5, 6, 7, 8])
    seen = apply_view(view, clip, "abc")
    assert (seen.frames.shape, seen.frames.dtype) == (clip.frames.shape, clip.frames.dtype)
    assert (seen.timestamps_s, seen.fps) == (clip.timestamps_s, clip.fps)
    assert order_of(clip) == [5, 6, 7, 8]


def test_reversed_shows_the_last_frame_first() -> None:
    seen = apply_view(View.REVERSED, make_decoded([5, 6, 7, 8]), "abc")
    assert order_of(seen) == [8, 7, 6, 5]
    assert seen.frame_indices == (103, 102, 101, 100)


def test_blank_is_the_same_for_every_clip() -> None:
    seen = [apply_view(View.BLANK, make_decoded(b), str(b)) for b in ([0, 9], [255, 3])]
    assert np.array_equal(seen[0].frames, seen[1].frames)
    assert len(np.unique(seen[0].frames)) == 1


@given(
    brightness=st.lists(st.integers(0, 3), min_size=1, max_size=16).map(lambda half: half * 2),
    content=st.text("0123456789abcdef", min_size=1),
)
def test_shuffled_frames_are_the_same_in_another_order(brightness: list[int], content: str) -> None:
    seen = apply_view(View.SHUFFLED, make_decoded(brightness), content)
    shuffled = order_of(seen)
    assert shuffled == [brightness[index - 100] for index in seen.frame_indices]
    assert sorted(shuffled) == sorted(brightness)
    assert (shuffled != brightness) == (len(set(brightness)) > 1)


@given(st.text("0123456789abcdef", min_size=1), st.text("0123456789abcdef", min_size=1))
def test_the_order_follows_from_the_content_alone(one: str, two: str) -> None:
    assume(one != two)
    first, again, other, elsewhere = [
        order_of(apply_view(View.SHUFFLED, make_decoded([i + start for i in range(32)]), content))
        for content, start in ((one, 0), (one, 0), (two, 0), (one, 100))
    ]
    assert first == again != other
    assert [value - 100 for value in elsewhere] == first


def test_single_frames_move_not_temporal_patches() -> None:
    orders = [
        order_of(apply_view(View.SHUFFLED, make_decoded(list(range(8))), str(content)))
        for content in range(20)
    ]
    pairs = [[(order[i] // 2 == order[i + 1] // 2) for i in range(0, 8, 2)] for order in orders]
    assert not all(all(kept) for kept in pairs)


# --- through decoder, model's processor and cache


def test_a_blank_clip_is_constant_for_the_model(make_clip: MakeClip, store: ClipStore) -> None:
    plain, seen = [store.get(with_view(str(make_clip()), v)) for v in (None, View.BLANK)]
    assert np.ptp(plain.pixel_values, axis=0).max() > 1
    assert np.ptp(seen.pixel_values, axis=0).max() == 0
    assert seen.grid_thw == plain.grid_thw
    assert seen.seconds_per_grid == plain.seconds_per_grid
    assert seen.placeholder_ids == plain.placeholder_ids


def test_the_model_sees_the_same_frames_shuffled_or_reversed(
    make_clip: MakeClip, store: ClipStore
) -> None:
    path = str(make_clip())
    plain, shuffled, turned = [
        frames_of(store.get(with_view(path, view))) for view in (None, View.SHUFFLED, View.REVERSED)
    ]
    assert len({frame.tobytes() for frame in plain}) == len(plain) == 8
    assert sorted(f.tobytes() for f in shuffled) == sorted(f.tobytes() for f in plain)
    assert not np.array_equal(shuffled, plain)
    assert np.array_equal(turned, plain[::-1])


def test_views_have_keys_and_fingerprints_of_their_own(
    make_clip: MakeClip, store: ClipStore
) -> None:
    path = make_clip()
    addresses = [with_view(str(path), view) for view in (None, *OF_FRAMES)]
    clips = [store.get(address) for address in addresses]
    assert len({clip.clip_key for clip in clips}) == 4
    assert len({clip.fingerprint for clip in clips}) == 4
    assert [clip.clip_key for clip in clips] == [store.key_of(address) for address in addresses]
    assert store.key_of(path) == clips[0].clip_key


def test_the_learner_loads_the_view_that_the_rollout_saw(
    make_clip: MakeClip, store: ClipStore, tmp_path: Path, processor: ClipProcessor
) -> None:
    path = str(make_clip())
    address = with_view(path, View.SHUFFLED)
    seen = store.get(address)
    elsewhere = ClipStore(tmp_path / "other node", processor, CONFIG)
    assert elsewhere.load(seen.clip_key, address, seen.fingerprint).clip_key == seen.clip_key
    elsewhere = ClipStore(tmp_path / "third node", processor, CONFIG)
    with pytest.raises(ParityError):
        elsewhere.load(seen.clip_key, path, seen.fingerprint)


def test_a_view_of_a_file_that_changes_gets_a_new_key(
    make_clip: MakeClip, store: ClipStore
) -> None:
    before = store.key_of(with_view(str(make_clip()), View.BLANK))
    assert store.key_of(with_view(str(make_clip(frames=9)), View.BLANK)) != before


def test_a_view_does_not_hide_a_bad_clip(store: ClipStore, tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    for view in OF_FRAMES:
        with pytest.raises(ClipError, match=r"text\.mp4: a text file"):
            store.get(with_view(str(path), view))
    with pytest.raises(ClipError, match=r"missing\.mp4: No such file"):
        store.get(tmp_path / "missing.mp4#view=blank")
    with pytest.raises(ClipError, match="known: blank"):
        store.get(f"{path}#view=grey")
    assert not list((tmp_path / "cache").glob("*/*"))
