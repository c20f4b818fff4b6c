"""Narratives in the place of clips: which text, which key, and that no video is decoded."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.video.semantic_tokens.builders import tokenizer
from video.address import View, with_tokens, with_view
from video.cache import ClipStore
from video.config import VideoConfig
from video.semantic_tokens.codes_file import write_codes
from video.semantic_tokens.narrated_clips import NarratedClips, Narration, Shown
from video.semantic_tokens.narrative import Run, Runs
from wire.errors import ClipError, DataError, ParityError

CONFIG = VideoConfig(max_frames=8)
CODES = (3, 3, 3, 7, 1)


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def text_of(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


@pytest.fixture
def clip(make_clip: Callable[..., Path]) -> Path:
    return make_clip()


@pytest.fixture
def narration(tmp_path: Path, fake: Any, clip: Path) -> Narration:
    """A tokenizer on disk, and the codes of the one clip."""
    made = tokenizer()
    made.save(tmp_path / "tokenizer")
    key = ClipStore(tmp_path / "cache", fake, CONFIG).key_of(clip)
    write_codes(tmp_path / "codes.jsonl", made.version, 8, [(key, CODES)])
    return Narration(folder=tmp_path / "tokenizer", codes=tmp_path / "codes.jsonl")


@pytest.fixture
def clips(tmp_path: Path, fake: Any, narration: Narration) -> NarratedClips:
    store = NarratedClips(tmp_path / "cache", fake, CONFIG)
    store.use(narration, letters)
    return store


@pytest.fixture
def address(clip: Path) -> str:
    return with_tokens(str(clip), tokenizer().version)


def shown(clips: NarratedClips, address: str, view: View | None = None) -> str:
    return text_of(clips.get(with_view(address, view)).placeholder_ids)


def test_a_clip_is_shown_as_the_text_of_its_codes_and_is_not_decoded(
    clips: NarratedClips, address: str
) -> None:
    narrative = clips.get(address)
    assert text_of(narrative.placeholder_ids) == "name 3 x3, name 7, name 1\n"
    assert narrative.pixel_values.shape == (0, 1)
    assert narrative.grid_thw == (0, 0, 0)
    assert narrative.semantic_tokenizer == tokenizer().version
    assert narrative.embeddings is None
    assert (clips.hits, clips.misses, clips.decoded.total()) == (0, 0, 0)


def test_the_narrative_itself_is_given_under_its_view(clips: NarratedClips, address: str) -> None:
    assert clips.narrative(address) == (Run(3, 3), Run(7, 1), Run(1, 1))
    assert clips.narrative(with_view(address, View.REVERSED))[0] == Run(1, 1)


def test_the_same_clip_elsewhere_is_the_same_narrative(
    clips: NarratedClips, address: str, clip: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    first, second = clips.get(address), clips.get(with_tokens(str(copy), tokenizer().version))
    assert (first.clip_key, first.fingerprint) == (second.clip_key, second.fingerprint)
    assert first.video_hash == second.video_hash != ""
    assert clips.key_of(address) == first.clip_key


def test_a_video_beside_it_is_shown_as_ever(
    clips: NarratedClips, clip: Path, address: str, fake: Any, tmp_path: Path
) -> None:
    plain = ClipStore(tmp_path / "other", fake, CONFIG).get(clip)
    video = clips.get(clip)
    assert np.array_equal(video.pixel_values, plain.pixel_values)
    assert video.clip_key == plain.clip_key != clips.get(address).clip_key
    assert video.semantic_tokenizer == ""


def test_views_change_the_actions_alone_and_always_in_the_same_way(
    clips: NarratedClips, address: str
) -> None:
    texts = {view: shown(clips, address, view) for view in View}
    assert texts[View.BLANK] == "nothing\n"
    assert texts[View.REVERSED] == "name 1, name 7, name 3 x3\n"
    assert sorted(texts[View.SHUFFLED].strip().split(", ")) == ["name 1", "name 3 x3", "name 7"]
    assert texts[View.SHUFFLED] != shown(clips, address)
    left = texts[View.DROPPED].strip().split(", ")
    assert len(left) == 1, "half of three actions, rounded up, are gone"
    assert left[0] in shown(clips, address)
    assert texts == {view: shown(clips, address, view) for view in View}
    keys = {clips.get(with_view(address, view)).clip_key for view in (None, *View)}
    assert len(keys) == 1 + len(View)


def test_another_rendering_of_the_same_tokenizer_has_another_key(
    clips: NarratedClips, address: str, narration: Narration
) -> None:
    before = clips.get(address)
    clips.use(Narration(folder=narration.folder, codes=narration.codes, style="ids"), letters)
    after = clips.get(address)
    assert text_of(after.placeholder_ids) == "<act_3> x3 <act_7> <act_1>\n"
    assert before.clip_key != after.clip_key


def test_a_narrator_may_bring_embeddings(
    clips: NarratedClips, address: str, narration: Narration
) -> None:
    class Embedded:
        def show(self, narrative: Runs, video_key: str) -> Shown:
            rows = np.array([[run.code] * 6 for run in narrative], np.float32)
            return Shown(placeholder_ids=(1, 7, 7, 7, 2), grid_thw=(3, 2, 2), embeddings=rows)

    other = Narration(folder=narration.folder, codes=narration.codes, render="embeddings")
    clips.use(other, letters, lambda _: Embedded())
    narrative = clips.get(address)
    assert narrative.embeddings is not None
    assert narrative.embeddings[:, 0].tolist() == [3, 7, 1]
    assert narrative.grid_thw == (3, 2, 2)
    assert narrative.fingerprint != clips.get(with_view(address, View.REVERSED)).fingerprint


def test_the_learner_gets_what_the_rollout_saw_or_an_error(
    clips: NarratedClips, address: str
) -> None:
    seen = clips.get(address)
    assert clips.load(seen.clip_key, address, seen.fingerprint).clip_key == seen.clip_key
    with pytest.raises(ParityError, match="differs from what the rollout saw"):
        clips.load(seen.clip_key, address, "0" * 64)


def test_what_has_no_codes_or_no_tokenizer_is_refused(
    clips: NarratedClips,
    address: str,
    clip: Path,
    make_clip: Callable[..., Path],
    fake: Any,
    tmp_path: Path,
) -> None:
    with pytest.raises(ClipError, match="no tokenizer of version 000000000000 is in use"):
        clips.get(with_tokens(str(clip), "0" * 12))
    with pytest.raises(ClipError, match=r"cannot narrate .* has no codes in"):
        clips.get(with_tokens(f"{clip}#t=0,1", tokenizer().version))
    with pytest.raises(ClipError, match=r"cannot read .*gone\.mp4"):
        clips.get(with_tokens(str(tmp_path / "gone.mp4"), tokenizer().version))
    with pytest.raises(ClipError, match="clips are shown as videos here; leave tokens="):
        ClipStore(tmp_path / "other", fake, CONFIG).get(address)


def test_codes_of_another_tokenizer_are_refused(clips: NarratedClips, narration: Narration) -> None:
    tokenizer(seed=1).save(narration.folder)
    with pytest.raises(DataError, match="has codes of the tokenizer"):
        clips.use(narration, letters)
