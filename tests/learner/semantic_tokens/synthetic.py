"""Synthetic segments: a look per clip, an event per segment, a flicker that tells nothing, noise.
(No test file.)"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from learner.semantic_tokens.fit import Fitted, fit_tokenizer
from video.semantic_tokens.config import SemanticTokensConfig
from video.semantic_tokens.segment_file import SegmentFile, SegmentWriter

WIDTH = 12
EVENTS = ("wave", "jump", "sit", "turn", "fall")


@dataclass(frozen=True)
class Clips:
    segments: SegmentFile
    truth: list[list[int]]
    """Per clip, per segment: the event shown."""

    @property
    def mentions(self) -> list[tuple[int, ...]]:
        return [tuple(sorted(set(events))) for events in self.truth]


def make_clips(path: Path, count: int = 120) -> Clips:
    """Two or three events a clip, each for two or three segments, in an order that no text says."""
    rng = np.random.default_rng(0)
    event_vectors = rng.normal(size=(len(EVENTS), 1, WIDTH))
    truth = []
    with SegmentWriter(path, tower="tower", places=1, width=WIDTH) as writer:
        for n in range(count):
            order = rng.permutation(len(EVENTS))[: rng.integers(2, 4)]
            events = [int(e) for e in order for _ in range(rng.integers(2, 4))]
            look = 0.4 * rng.normal(size=(1, 1, WIDTH))
            noise = 0.1 * rng.normal(size=(len(events), 1, WIDTH))
            shown = event_vectors[events] + look + noise
            shown[..., :2] += rng.choice([-1.5, 1.5], size=(len(events), 1, 2))
            writer.add(f"clip {n}", shown.astype(np.float32))
            truth.append(events)
    return Clips(SegmentFile.open(path), truth)


def config(**values: object) -> SemanticTokensConfig:
    small = {
        "num_codes": 16,
        "dim": 8,
        "hidden": 32,
        "spatial": 1,
        "epochs": 20,
        "batch_size": 16,
        "learning_rate": 3e-3,
    }
    return SemanticTokensConfig.model_validate(small | values)


def fit(clips: Clips, *, seed: int = 0, **values: object) -> Fitted:
    vectors = torch.randn(len(EVENTS), 7, generator=torch.Generator().manual_seed(5))
    settings = config(**values)
    return fit_tokenizer(clips.segments, clips.mentions, EVENTS, vectors, settings, seed=seed)


def named_rightly(clips: Clips, fitted: Fitted) -> float:
    """Share of segments whose code bears the name of their event."""
    every = clips.segments.read(range(len(clips.segments)))
    codes = [fitted.tokenizer.codes(torch.from_numpy(clip)) for clip in every]
    pairs = [
        pair for c, e in zip(codes, clips.truth, strict=True) for pair in zip(c, e, strict=True)
    ]
    return sum(fitted.tokenizer.names[c] == EVENTS[e] for c, e in pairs) / len(pairs)
