"""Clips of which some are shown as narratives: a ClipStore that turns ``clip.mp4#tokens=VERSION``
into a ProcessedClip without pixels.

    address -> key of the video (content, window, sampling) -> codes (codes_file.py) -> view
            -> narrative -> Narrator -> placeholder ids (and embeddings)

The video is hashed and never decoded. Any other address is a clip of the ClipStore.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from video.address import Address, View
from video.cache import ClipStore, Processor
from video.config import VideoConfig
from video.disk_cache.file_system import FileSystem
from video.pool import DecodePool
from video.processor import Pixels, ProcessedClip, fingerprint_of
from video.semantic_tokens.codes_file import CodesFile
from video.semantic_tokens.config import Style
from video.semantic_tokens.description import TokenizerDescription
from video.semantic_tokens.narrative import (
    Runs,
    dropped,
    narrative_text,
    random_codes,
    reversed_runs,
    runs,
    shuffled,
)
from wire.errors import ClipError, DataError
from wire.types import stable_hash

DROPPED_SHARE = 0.5
"""Share of the actions that the view ``dropped`` leaves out."""

_LAYOUT = "1"
"""Part of every narrative's key: change it with anything that changes what is shown of codes."""

Encode = Callable[[str], Sequence[int]]
"""Token ids of a text in a prompt, of which none steers; rollout/render.py has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Narration:
    """Files of a tokenizer, and how its narratives are shown; sent to the processes that show them.

    Example:
        Narration(folder=Path("run/stages/vst/tokenizer"), codes=Path("run/stages/vst/codes.jsonl"))
    """

    folder: Path
    """The tokenizer's directory."""
    codes: Path
    """Codes of all clips of the manifest."""
    render: str = "text"
    """``text`` or ``embeddings``."""
    style: Style = "names"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Narrative as a model takes it."""

    placeholder_ids: tuple[int, ...]
    """Token ids in the place of the clip."""
    grid_thw: tuple[int, int, int] = (0, 0, 0)
    """Of its video tokens, as ``ProcessedClip.grid_thw``."""
    seconds_per_grid: float = 1.0
    embeddings: Pixels | None = None
    """One row per video token of ``placeholder_ids``; None: it has no video token."""


class Narrator(Protocol):
    """Turns the narrative of a clip into model input, in one way of rendering."""

    def show(self, narrative: Runs, video_key: str) -> Shown:
        """Model input of a narrative of the clip with this key."""
        ...


class TextNarrator:
    """Narrator that writes narratives as text."""

    def __init__(self, names: Sequence[str], style: Style, encode: Encode) -> None:
        """``names``: one per code; ``encode``: token ids of a text."""
        self._names, self._style, self._encode = names, style, encode

    def show(self, narrative: Runs, video_key: str) -> Shown:
        """The text's token ids, and no video token."""
        text = narrative_text(narrative, self._names, self._style)
        return Shown(placeholder_ids=tuple(self._encode(f"{text}\n")))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokens:
    """What is shown under one version of a tokenizer."""

    codes: CodesFile
    narrator: Narrator
    about: tuple[str, str]
    """Render and style, which change what is shown of the same codes."""


class NarratedClips(ClipStore):
    """The clip cache of one process, with the narratives of its clips. Safe to call from several
    threads."""

    def __init__(
        self,
        cache_dir: str | Path,
        processor: Processor,
        config: VideoConfig,
        pool: DecodePool | None = None,
        files: FileSystem | None = None,
    ) -> None:
        super().__init__(cache_dir, processor, config, pool, files)
        self._tokens: dict[str, _Tokens] = {}

    def use(
        self,
        narration: Narration,
        encode: Encode,
        narrator_of: Callable[[Narration], Narrator] | None = None,
    ) -> None:
        """Show narratives of a tokenizer from now on, in place of an earlier rendering of it.

        ``narrator_of``: makes the narrator where it is not text. Raises DataError if the files are
        missing or belong to another tokenizer.
        """
        about = TokenizerDescription.read(narration.folder)
        codes = CodesFile.read(narration.codes, version=about.version)
        make = narrator_of or partial(_text_narrator, about, encode)
        tokens = _Tokens(
            codes=codes, narrator=make(narration), about=(narration.render, narration.style)
        )
        self._tokens = {**self._tokens, about.version: tokens}

    def key_of(self, address: str | Path) -> str:
        """The key of a clip, or of its narrative. Raises ClipError."""
        source = Address.parse(address)
        if source.tokens is None:
            return super().key_of(address)
        return self._narrative_key(source, self._tokens_of(source), self._video_key(source))

    def get(self, address: str | Path) -> ProcessedClip:
        """The processed clip at an address, or its narrative.

        Raises ClipError if the file cannot be read, the clip has no codes, or no tokenizer of that
        version is in use here.
        """
        source = Address.parse(address)
        return super().get(address) if source.tokens is None else self._narrated(source)

    def load(self, clip_key: str, address: str | Path, fingerprint: str) -> ProcessedClip:
        """The processed clip, or the narrative, that the rollout saw. Raises ParityError if the
        fingerprint differs from the rollout's."""
        source = Address.parse(address)
        if source.tokens is None:
            return super().load(clip_key, address, fingerprint)
        return self._checked(self._narrated(source), clip_key, address, fingerprint)

    def narrative(self, address: str | Path) -> Runs:
        """The narrative at an address, under its view. Raises ClipError."""
        source = Address.parse(address)
        tokens, video_key = self._tokens_of(source), self._video_key(source)
        try:
            codes = tokens.codes.codes(video_key)
        except DataError as error:
            raise ClipError(f"cannot narrate {source.path}: {error}") from error
        return _viewed(source.view, runs(codes), tokens.codes.num_codes, video_key)

    def _narrated(self, source: Address) -> ProcessedClip:
        assert source.tokens is not None, "asked for narratives alone"
        tokens, video_key = self._tokens_of(source), self._video_key(source)
        shown = tokens.narrator.show(self.narrative(str(source)), video_key)
        pixels = np.zeros((0, 1), np.float32)
        seen = pixels if shown.embeddings is None else shown.embeddings
        return ProcessedClip(
            pixel_values=pixels,
            grid_thw=shown.grid_thw,
            seconds_per_grid=shown.seconds_per_grid,
            placeholder_ids=shown.placeholder_ids,
            fingerprint=fingerprint_of(
                seen, shown.grid_thw, shown.seconds_per_grid, shown.placeholder_ids
            ),
            clip_key=self._narrative_key(source, tokens, video_key),
            video_hash=self._content.of(source.path),
            window=source.window,
            semantic_tokenizer=source.tokens,
            embeddings=shown.embeddings,
        )

    def _tokens_of(self, source: Address) -> _Tokens:
        tokens = self._tokens.get(source.tokens or "")
        if tokens is None:
            raise ClipError(
                f"{source} asks for a narrative, and no tokenizer of version {source.tokens} is in "
                "use; narratives are made by a stage of kind semantic_tokens, and shown by the "
                'stages with input = "tokens": name the video alone in a manifest'
            )
        return tokens

    def _video_key(self, source: Address) -> str:
        return super().key_of(str(replace(source, view=None, tokens=None)))

    def _narrative_key(self, source: Address, tokens: _Tokens, video_key: str) -> str:
        parts = [] if source.view is None else [source.view]
        return stable_hash(_LAYOUT, video_key, source.tokens, tokens.about, *parts)[:40]


def _text_narrator(about: TokenizerDescription, encode: Encode, narration: Narration) -> Narrator:
    return TextNarrator(about.names, narration.style, encode)


def _viewed(view: View | None, narrative: Runs, num_codes: int, clip: str) -> Runs:
    """A narrative under a view; what is by chance in it follows from the clip."""
    match view:
        case None:
            return narrative
        case View.BLANK:
            return ()
        case View.SHUFFLED:
            return shuffled(narrative, clip)
        case View.REVERSED:
            return reversed_runs(narrative)
        case View.DROPPED:
            return dropped(narrative, DROPPED_SHARE, clip)
        case View.RANDOM:
            return random_codes(narrative, num_codes, clip)
