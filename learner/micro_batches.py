"""Rows of one rank -> micro-batches on its device, in step with the other ranks.

rows -> micro-batches, with fillers up to the busiest rank's number
     -> clips that a frozen tower has not seen yet: looked at, many at once
     -> TrainBatch
"""

import itertools
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

from learner.config import LearnerConfig
from learner.engine import DeepSpeedEngine
from learner.model.embedding_cache import TOKENS_PER_CALL, EmbeddingCache, tower_hash
from learner.model.embedding_store import EmbeddingStore
from learner.ranks.clips_ahead import ClipsAhead
from learner.ranks.collectives import max_over_ranks, reduce, require_same_on_all_ranks
from learner.shared_prefix.batch import TrainBatch, make_batch, micro_batches
from learner.shared_prefix.largest_batch import LargestBatch
from learner.shared_prefix.rows import Row, as_filler, one_row_per_response
from video.cache import ClipStore
from video.positions import PositionRule
from video.processor import ProcessedClip
from video.semantic_tokens.segment_encoder import pool_segments
from video.semantic_tokens.segment_file import Segments

_BATCHES_PER_LOOK = 32  # micro-batches whose clips the tower looks at, and memory holds, at once


class Batches:
    """Micro-batches of one stage. All ranks call every method in one order."""

    def __init__(
        self,
        config: LearnerConfig,
        engine: DeepSpeedEngine,
        rule: PositionRule,
        clips: ClipStore,
        embeddings: EmbeddingStore | None,
        ahead: ClipsAhead | None = None,
    ) -> None:
        """``embeddings``: store of a frozen tower's features; none: the tower runs on every clip
        anew. ``ahead``: makes clips ready while others train; none: each when it is needed."""
        self._config, self._engine, self._rule = config, engine, rule
        self._clips, self._embeddings = clips, embeddings
        self.tower: str | None = None
        """Name of the tower's present weights in the keys of the embedding cache; None without."""
        self._seen = self._open_embeddings()
        self._ahead = ahead

    def prepare(self, rows: Sequence[Row]) -> None:
        """Let the clips that rows need be made ready, while this goes on. Safe to call from any
        thread."""
        if self._ahead is None:
            return
        for row in rows:
            is_video = row.prompt.clip_key and not row.prompt.semantic_tokenizer
            if is_video and not self._is_ready(row):
                self._ahead.submit(row.video)

    def _is_ready(self, row: Row) -> bool:
        assert self._ahead is not None, "without it nothing is made ready"
        seen = self._seen is not None and self._seen.has(row)
        return seen or self._ahead.has(row.prompt.clip_key)

    def weights_changed(self) -> None:
        """Reopen the embedding cache: a checkpoint was loaded, which may hold another tower."""
        self._seen = self._open_embeddings()

    def trial_batch(self, largest: LargestBatch) -> TrainBatch:
        """A batch of made-up rows for the memory preflight; it neither reads nor fills the
        cache."""
        width = self._engine.policy.blank_clip(self._smallest).values.shape[1]
        rows, clip_of = largest.rows(self._rule), largest.clips(self._rule, width)
        if not self._config.shared_prefix:
            rows = next(
                micro_batches(
                    [one for row in rows for one in one_row_per_response(row)], largest.max_tokens
                )
            )
        if self._seen is None:
            batch = make_batch(rows, clip_of, self._rule)
        else:
            seen = self._seen.for_trial(clip_of)
            seen.fill(rows)
            batch = make_batch(rows, seen.clip_of, self._rule, seen.seen_of)
        return self._engine.to_device(batch)

    def in_step(self, rows: Sequence[Row]) -> Iterator[TrainBatch]:
        """This rank's micro-batches, one by one, with fillers up to the busiest rank's number."""
        mine = list(micro_batches(rows, self._config.max_tokens_per_batch))
        mine += [[as_filler(rows[0])]] * (max_over_ranks(len(mine)) - len(mine))
        self.prepare([row for part in mine for row in part])
        for start in range(0, len(mine), _BATCHES_PER_LOOK):
            parts = mine[start : start + _BATCHES_PER_LOOK]
            if self._seen is not None:
                self._seen.fill([row for part in parts for row in part])
            for part in parts:
                yield self._engine.to_device(self._batch(part))

    def segments(self, rows: Sequence[Row], spatial: int, steps: int) -> list[Segments]:
        """Segments ``[T, S, H]`` of each row's clip, from the features of the frozen tower."""
        assert self._seen is not None, "only a frozen tower with an embedding cache has segments"
        parts = list(micro_batches(rows, self._config.max_tokens_per_batch))
        blocks = [
            list(itertools.chain.from_iterable(parts[start : start + _BATCHES_PER_LOOK]))
            for start in range(0, len(parts), _BATCHES_PER_LOOK)
        ]
        blocks += [[]] * (max_over_ranks(len(blocks)) - len(blocks))
        segments: list[Segments] = []
        for block in blocks:
            self._seen.fill(block)
            segments += [self._segments_of(self._seen, row, spatial, steps) for row in block]
        return segments

    def _segments_of(self, seen: EmbeddingCache, row: Row, spatial: int, steps: int) -> Segments:
        t, h, w = seen.clip_of(row).grid_thw
        side = self._rule.merge_size
        grid = t, h // side, w // side
        pooled: Segments = pool_segments(seen.seen_of(row).embeds, grid, spatial, steps).numpy()
        return pooled

    def _batch(self, rows: Sequence[Row]) -> TrainBatch:
        if self._seen is None:
            return make_batch(rows, self._clip, self._rule)
        return make_batch(rows, self._seen.clip_of, self._rule, self._seen.seen_of)

    def _open_embeddings(self) -> EmbeddingCache | None:
        """The embedding cache of the tower's present weights; None where they are trained. All
        ranks call."""
        policy, self.tower = self._engine.policy, None
        if self._embeddings is None or policy.trains_tower:
            return None
        device = "cuda" if self._config.num_gpus else "cpu"
        # one clip per call in a deterministic run: its bits depend on what is beside it
        alone = torch.are_deterministic_algorithms_enabled()
        about = (policy.tower_config, "alone") if alone else policy.tower_config
        tower = tower_hash(self._engine.tower_parameters(), about, device)
        require_same_on_all_ranks(tower)
        self.tower = tower
        return EmbeddingCache(
            self._embeddings,
            tower,
            self._rule,
            look=self._engine.look,
            blank=policy.blank_clip(self._smallest),
            clip_of=self._clip,
            max_over_ranks=max_over_ranks,
            tokens_per_call=0 if alone else TOKENS_PER_CALL,
            dtype=getattr(torch, self._config.dtype),
        )

    def hit_rate(self) -> dict[str, float]:
        """The embedding cache's hit rate of all ranks since the last update; empty without clips or
        cache."""
        if self._seen is None:
            return {}
        counts = reduce(self._seen.take_counts(), dist.ReduceOp.SUM)
        if not counts["wanted"]:
            return {}
        return {"cache/embedding_hit_rate": 1 - counts["looked_at"] / counts["wanted"]}

    def take_waits(self) -> dict[str, float]:
        """Seconds that this rank has waited for clips that were not ready, since the last call."""
        return {} if self._ahead is None else {"timing_s/wait_clips": self._ahead.take_waited_s()}

    def _clip(self, row: Row) -> ProcessedClip:
        clips = self._ahead or self._clips
        return clips.load(row.prompt.clip_key, row.video, row.prompt.fingerprint)

    @property
    def _smallest(self) -> tuple[int, int, int]:
        """Grid of a clip of one video token."""
        return 1, self._rule.merge_size, self._rule.merge_size
