"""Figures of a tokenizer: use of the codebook, switches, reconstruction, agreement with texts.

network, SegmentFile -> read_codes -> Readings -> figures_of -> {"codes_used": ..., ...}
codes, labels of segments (where there are some) -> purity
"""

import copy
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from video.semantic_tokens.codebook import perplexity
from video.semantic_tokens.narrative import runs
from video.semantic_tokens.segment_file import SegmentFile
from video.semantic_tokens.tokenizer import TokenizerNetwork

_CLIPS_PER_READ = 256

Codes = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Codes of many clips, and what the tower's features under each code are."""

    codes: tuple[Codes, ...]
    """Per clip."""
    embeddings: Tensor
    """Per code the mean of the features that have it, over places ``[K, H]``; of a code that no
    segment has, what the decoder makes of it."""
    reconstruction_error: float
    """Share of the features' variance that codes do not recover."""


@torch.no_grad()
def read_codes(network: TokenizerNetwork, segments: SegmentFile) -> Readings:
    """Encode every clip, in float64 as the tokenizer does, and average the features under each
    code."""
    network = copy.deepcopy(network).double()
    encoder, book, decoder = network.encoder, network.codebook, network.decoder
    size, places, width = len(book.codes), segments.places, segments.width
    sums = torch.zeros(size, width, dtype=torch.float64)
    errors, variance = 0.0, 0.0
    codes: list[Codes] = []
    for clip in _clips(segments):
        features = encoder.standardise(clip)
        chosen = book.nearest(network.encode(clip))
        errors += float((decoder(book.codes[chosen]) - features).square().sum())
        variance += float(features.square().sum())
        sums.index_add_(0, chosen, clip.mean(1))
        codes.append(tuple(chosen.tolist()))
    counts = _counts(codes, size)
    means = sums / counts.clamp_min(1)[:, None]
    decoded = encoder.restore(decoder(book.codes)).view(size, places, width).mean(1)
    return Readings(
        codes=tuple(codes),
        embeddings=torch.where(counts[:, None] > 0, means, decoded).float(),
        reconstruction_error=errors / max(variance, 1e-12),
    )


def _counts(codes: Sequence[Codes], size: int) -> Tensor:
    flat = [code for clip in codes for code in clip]
    return torch.from_numpy(np.bincount(flat, minlength=size))


def _clips(segments: SegmentFile) -> Iterable[Tensor]:
    for start in range(0, len(segments), _CLIPS_PER_READ):
        which = range(start, min(start + _CLIPS_PER_READ, len(segments)))
        yield from (torch.from_numpy(clip).double() for clip in segments.read(which))


def figures_of(
    readings: Readings, mentions: Sequence[tuple[int, ...]], names: Sequence[int]
) -> dict[str, float]:
    """Figures of a tokenizer on clips.

    ``mentions``: per clip the attributes that its text mentions; ``names``: per code the attribute
    nearest to it.

    - ``named_precision``: share of segments whose code's name the clip's text mentions;
      ``named_chance``: the same if codes were dealt to clips blindly
    - ``named_recall``: share of mentions that the name of one of the clip's codes answers
    """
    codes = readings.codes
    counts = _counts(codes, len(names))
    stories = [runs(clip) for clip in codes]
    named = [runs([names[c] for c in clip]) for clip in codes]
    pairs = sum(len(clip) - 1 for clip in codes)
    segments, actions, named_actions = (sum(map(len, x)) for x in (codes, stories, named))
    figures = {
        "num_clips": float(len(codes)),
        "num_segments": float(segments),
        "codes_used": float((counts > 0).sum()),
        "codes_used_frac": float((counts > 0).float().mean()),
        "perplexity": perplexity(counts),
        "names_used": float(len({names[c] for clip in codes for c in clip})),
        "switch_rate": (actions - len(codes)) / max(pairs, 1),
        "mean_run_length": segments / actions,
        "named_switch_rate": (named_actions - len(codes)) / max(pairs, 1),
        "mean_named_run_length": segments / named_actions,
        "reconstruction_error": readings.reconstruction_error,
    }
    return figures | _agreement(codes, mentions, names)


def _agreement(
    codes: Sequence[Codes], mentions: Sequence[tuple[int, ...]], names: Sequence[int]
) -> dict[str, float]:
    """Agreement of the codes' names with the texts, over the clips that mention something."""
    clips = [
        (Counter(names[c] for c in clip), set(named))
        for clip, named in zip(codes, mentions, strict=True)
        if named
    ]
    if not clips:
        return {}
    everywhere = sum((shown for shown, _ in clips), Counter[int]())
    mentioned = Counter(a for _, named in clips for a in named)
    segments = everywhere.total()
    return {
        "named_precision": sum(n for shown, named in clips for a, n in shown.items() if a in named)
        / segments,
        "named_chance": sum(n * mentioned[a] for a, n in everywhere.items())
        / (segments * len(clips)),
        "named_recall": sum(len(named & shown.keys()) for shown, named in clips)
        / mentioned.total(),
    }


def purity(codes: Sequence[int], labels: Sequence[Hashable]) -> float:
    """Purity of codes: share of segments whose label is the most frequent one of their code."""
    by_code: dict[int, Counter[Hashable]] = {}
    for code, label in zip(codes, labels, strict=True):
        by_code.setdefault(code, Counter())[label] += 1
    return sum(max(counter.values()) for counter in by_code.values()) / max(len(codes), 1)
