"""Embedding cache of a frozen vision tower: the features of a clip are computed once.

    rows -> keys -> found in the store, or looked at, several clips per call -> SeenClips
    rows of narratives as embeddings -> what their clips bring                -> SeenClips

A key names everything that an entry depends on: the clip's content, window, view, sampling and
processor (its clip key), its pixels (its fingerprint), the tower's weights, configuration and
precision. So nothing stale can be found; an entry is never asked whether it is still right.

Under ZeRO-3 every call of the tower is a collective: all ranks make as many as the rank that has
most to look at.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from learner.model.embedding_store import EmbeddingStore, SeenClip
from learner.shared_prefix.clip_features import ClipFeatures, Pixels
from learner.shared_prefix.rows import Row
from video.positions import PositionRule
from video.processor import ProcessedClip
from wire.types import Prompt, stable_hash

_LAYOUT = "1"
"""Part of every key: change it with anything that changes entries and has no other part in it."""
TOKENS_PER_CALL = 8192
"""Merged patches that one call of the tower computes; a larger clip gets a call of its own."""


def tower_hash(parameters: Iterable[tuple[str, Tensor]], config: object, device: str) -> str:
    """Hash of everything but the clip that decides a tower's output.

    ``parameters``: all of the tower's, mergers included, whole, in the precision that computes.
    """
    import transformers

    versions = [torch.__version__, transformers.__version__, device]
    digest = hashlib.sha256(json.dumps([_LAYOUT, versions, config], sort_keys=True).encode())
    for name, tensor in parameters:
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def embedding_key(prompt: Prompt, tower: str) -> str:
    """Cache key of a prompt's clip under a tower (:func:`tower_hash`)."""
    return stable_hash(_LAYOUT, prompt.clip_key, prompt.fingerprint, tower)[:40]


class EmbeddingCache:
    """The embedding cache of one stage, whose tower does not change. All ranks call :meth:`fill`
    together."""

    def __init__(
        self,
        store: EmbeddingStore,
        tower: str,
        rule: PositionRule,
        look: Callable[[Pixels], ClipFeatures],
        blank: Pixels,
        clip_of: Callable[[Row], ProcessedClip],
        max_over_ranks: Callable[[int], int],
        tokens_per_call: int = TOKENS_PER_CALL,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """``look``: runs the tower. ``blank``: the clip of a call that a rank makes only to keep
        step. ``clip_of`` loads a row's pixels and raises ParityError if they are not those of its
        fingerprint. ``max_over_ranks``: the largest of all ranks' numbers. ``dtype``: precision of
        the tower's features."""
        self._store, self._tower, self._rule = store, tower, rule
        self._look, self._blank, self._clip_of = look, blank, clip_of
        self._max_over_ranks = max_over_ranks
        self._tokens_per_call, self._dtype = tokens_per_call, dtype
        self._held: dict[str, SeenClip] = {}
        self._wanted: set[str] = set()
        self._looked_at: set[str] = set()

    def fill(self, rows: Sequence[Row]) -> None:
        """Load or compute the features of the rows' clips, and hold them until the next call."""
        shown = [row for row in rows if self._num_tokens(row)]
        clips = {self._key(row): row for row in shown if not row.prompt.semantic_tokenizer}
        self._held = {key: seen for key, row in clips.items() if (seen := self._find(key, row))}
        missing = {key: row for key, row in clips.items() if key not in self._held}
        self._wanted |= clips.keys()
        self._looked_at |= missing.keys()
        brought = {self._key(row): row for row in shown if row.prompt.semantic_tokenizer}
        self._held |= {key: self._brought(row) for key, row in brought.items()}
        calls = list(self._calls(missing))
        # before the first call: under ZeRO-3 a call is collective
        most = self._max_over_ranks(len(calls))
        for keys in calls:
            for seen in self._look_at({key: missing[key] for key in keys}):
                self._held[seen.key] = self._store.put(seen)
        for _ in range(most - len(calls)):
            self._look(self._blank)

    def clip_of(self, row: Row) -> ProcessedClip:
        """A row's clip without its pixels, which are not needed beside cached features."""
        seen = self._held[self._key(row)]
        return ProcessedClip(
            pixel_values=np.zeros((0, 1), np.float32),
            grid_thw=seen.grid_thw,
            seconds_per_grid=seen.seconds_per_grid,
            placeholder_ids=(),
            fingerprint=row.prompt.fingerprint,
            clip_key=row.prompt.clip_key,
        )

    def seen_of(self, row: Row) -> ClipFeatures:
        """The tower's features of a row's clip. The row was in the last :meth:`fill`."""
        return self._held[self._key(row)].features

    def has(self, row: Row) -> bool:
        """Whether the features of a row's clip need not be computed. Safe to call from any
        thread."""
        return self._store.has(self._key(row))

    def for_trial(self, clip_of: Callable[[Row], ProcessedClip]) -> "EmbeddingCache":
        """An empty cache of the same tower for the memory preflight: it finds and keeps nothing."""
        return EmbeddingCache(
            EmbeddingStore(None, 0, recent_bytes=0),
            self._tower,
            self._rule,
            look=self._look,
            blank=self._blank,
            clip_of=clip_of,
            max_over_ranks=self._max_over_ranks,
            tokens_per_call=self._tokens_per_call,
            dtype=self._dtype,
        )

    def take_counts(self) -> dict[str, float]:
        """Counts since the last call: clips that this rank wanted, and those whose features the
        tower had to compute; each clip counts once, however often it was wanted."""
        counts = {"wanted": float(len(self._wanted)), "looked_at": float(len(self._looked_at))}
        self._wanted, self._looked_at = set(), set()
        return counts

    def _key(self, row: Row) -> str:
        return embedding_key(row.prompt, self._tower)

    def _find(self, key: str, row: Row) -> SeenClip | None:
        seen = self._store.get(key)
        return seen if seen is not None and seen.num_tokens == self._num_tokens(row) else None

    def _brought(self, row: Row) -> SeenClip:
        """Features that a narrative's clip brings; none for inner layers."""
        clip = self._clip_of(row)
        assert clip.embeddings is not None, "video tokens, and neither pixels nor embeddings"
        embeds = torch.from_numpy(clip.embeddings).to(self._dtype)
        return SeenClip(
            key=self._key(row),
            features=ClipFeatures(embeds, (torch.zeros_like(embeds),) * self._rule.num_deepstack),
            grid_thw=clip.grid_thw,
            seconds_per_grid=clip.seconds_per_grid,
        )

    def _num_tokens(self, row: Row) -> int:
        return int(self._rule.is_video(row.prompt.token_ids).sum())

    def _calls(self, missing: dict[str, Row]) -> Iterator[list[str]]:
        """Keys of the clips of each call of the tower."""
        held: list[str] = []
        total = 0
        for key, row in missing.items():
            more = self._num_tokens(row)
            if held and total + more > self._tokens_per_call:
                yield held
                held, total = [], 0
            held.append(key)
            total += more
        if held:
            yield held

    def _look_at(self, rows: dict[str, Row]) -> Iterator[SeenClip]:
        clips = [self._clip_of(row) for row in rows.values()]
        pixels = np.concatenate([clip.pixel_values for clip in clips])
        grids = torch.tensor([clip.grid_thw for clip in clips])
        features = self._look(Pixels(torch.from_numpy(pixels), grids))
        sizes = (grids.prod(-1) // self._rule.merge_size**2).tolist()
        for key, clip, part in zip(rows, clips, features.split(sizes), strict=True):
            yield SeenClip(
                key=key,
                features=part.to("cpu"),
                grid_thw=clip.grid_thw,
                seconds_per_grid=clip.seconds_per_grid,
            )
