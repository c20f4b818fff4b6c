"""Narratives as embeddings: one video token per segment, with an embedding in the place of what the
vision tower makes of pixels.

runs (3, 3, 7) -> <start> v v v <end> + rows 3, 3, 7 of the tokenizer's embeddings
a tokenizer that does not quantise    + the segments' own vectors (an ablation)

Positions are those of a clip of T temporal patches with one patch each, one second apart: the rule
of any clip (video/positions.py). Only for families that write no times between patches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from video.families import family_named, read_config
from video.processor import Pixels
from video.semantic_tokens.description import WEIGHTS_NAME, TokenizerDescription
from video.semantic_tokens.narrated_clips import Narration, Narrator, Shown
from video.semantic_tokens.narrative import Runs, codes_of
from video.semantic_tokens.segment_file import SegmentFile
from wire.errors import ClipError, ConfigError

_SECONDS = 1.0  # a segment's length is that of the manifest's clips, which is not read again
_SOFT_NAME = "soft.segments"


CodesOf = Callable[[str], tuple[int, ...]]
"""Codes of a clip by its key."""


def soft_path(codes: Path) -> Path:
    """File of the unquantised vectors of all clips, beside the file of their codes."""
    return codes.with_name(_SOFT_NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoTokens:
    """Tokens of a model that enclose a clip and stand for it."""

    start: int
    video: int
    end: int
    merge_size: int

    @classmethod
    def load(cls, model_dir: Path) -> "VideoTokens":
        """Read them from a model's ``config.json``. Raises ConfigError for a family that writes
        times between patches, or a file that does not name them."""
        config = read_config(model_dir)
        family = family_named(str(config.get("model_type")))
        if family.writes_times:
            raise ConfigError(
                f'render = "embeddings" puts one block of video tokens into a prompt, and a '
                f'{family.model_type} model has a block per time; use render = "text"'
            )
        names = ("vision_start_token_id", "video_token_id", "vision_end_token_id")
        if missing := [name for name in names if not isinstance(config.get(name), int)]:
            raise ConfigError(
                f"{model_dir}/config.json has no {', '.join(missing)}, which narratives as "
                "embeddings are enclosed by; use the file that came with the model, or render = "
                '"text"'
            )
        start, video, end = (int(config[name]) for name in names)
        side = int(config.get("vision_config", {}).get("spatial_merge_size", 2))
        return cls(start=start, video=video, end=end, merge_size=side)

    def shown(self, embeddings: Pixels) -> Shown:
        """Model input of these embeddings, [T, H]."""
        count, side = len(embeddings), self.merge_size
        return Shown(
            placeholder_ids=(self.start, *(self.video,) * count, self.end),
            grid_thw=(count, side, side) if count else (0, 0, 0),
            seconds_per_grid=_SECONDS,
            embeddings=embeddings if count else None,
        )


class CodeEmbeddings:
    """Narrator that shows each segment by its code's embedding."""

    def __init__(self, tokens: VideoTokens, embeddings: Pixels) -> None:
        """``embeddings`` [K, H]: one per code."""
        self._tokens, self._embeddings = tokens, embeddings

    def show(self, narrative: Runs, video_key: str) -> Shown:
        """One embedding per segment of the narrative."""
        return self._tokens.shown(self._embeddings[np.array(codes_of(narrative), dtype=np.int64)])


class SoftEmbeddings:
    """Narrator that shows each segment by its own vector, not quantised: an ablation. It has no
    views, because the controls change codes."""

    def __init__(self, tokens: VideoTokens, vectors: SegmentFile, codes: CodesOf) -> None:
        self._tokens, self._vectors, self._codes = tokens, vectors, codes
        self._places = {clip: place for place, clip in enumerate(vectors.clips)}

    def show(self, narrative: Runs, video_key: str) -> Shown:
        """The vectors of a clip's segments. Raises ClipError for a view of its narrative."""
        if narrative and codes_of(narrative) != tuple(self._codes(video_key)):
            raise ClipError(
                "views of a narrative change its codes, and this tokenizer shows none "
                "(quantise = false); measure views with one that quantises"
            )
        if not narrative:  # blank
            return self._tokens.shown(np.zeros((0, self._vectors.width), np.float32))
        (vectors,) = self._vectors.read([self._places[video_key]])
        return self._tokens.shown(vectors[:, 0])


def narrator_maker(narration: Narration, model_dir: Path) -> Callable[[Narration], Narrator] | None:
    """What makes the narrator of a tokenizer's files where narratives are embeddings; None where
    they are text."""
    if narration.render == "text":
        return None
    return partial(embedding_narrator, model_dir=model_dir)


def embedding_narrator(narration: Narration, model_dir: Path) -> Narrator:
    """Narrator of a tokenizer's files, for a model. Raises ConfigError or DataError."""
    from safetensors.numpy import load_file

    tokens = VideoTokens.load(model_dir)
    description = TokenizerDescription.read(narration.folder)
    if not description.config.quantise:
        from video.semantic_tokens.codes_file import CodesFile

        codes = CodesFile.read(narration.codes, version=description.version)
        return SoftEmbeddings(tokens, SegmentFile.open(soft_path(narration.codes)), codes.codes)
    weights = load_file(narration.folder / WEIGHTS_NAME)
    return CodeEmbeddings(tokens, weights["embeddings"].astype(np.float32))
