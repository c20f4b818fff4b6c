"""Embedding cache of a frozen tower: an entry read back is what the tower gave, bit for bit.

Twice: with the tower of a small model, and with features that the card is still computing when the
copy to the CPU is asked for, behind work of some milliseconds. A copy that is read before it has
arrived differs then; so does one by itself, which needs no store. The store needs xxhash.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from learner.model.policy import Policy
from learner.shared_prefix.clip_features import ClipFeatures, Pixels
from learner.shared_prefix.rows import Row
from tests.benchmarks.figures import Figure
from tests.gpu.models import Words, rule_of
from tests.gpu.setting import Setting
from tests.learner.builders import RandomClips, make_row
from tests.tiny_models import build_model
from video.positions import PositionRule
from video.processor import ProcessedClip

if TYPE_CHECKING:
    from learner.model.embedding_cache import EmbeddingCache

Look = Callable[[Pixels], ClipFeatures]

_CLIPS = 16
_TOKENS = 8  # of a clip of make_row
_FAMILY = "qwen3_vl"  # its features have several parts


def figures(setting: Setting) -> Iterator[Figure]:
    """How many of the clips read back are not as they were computed: none."""
    late = _Late(setting)
    rows = [make_row(seed, model_type=_FAMILY) for seed in range(_CLIPS)]
    # read at once: a comparison that asks the card first would wait for the copy
    copies = [late(_pixels(row)).to("cpu").embeds.clone() for row in rows]
    away = sum(
        not torch.equal(copy, late(_pixels(row)).embeds.cpu())
        for copy, row in zip(copies, rows, strict=True)
    )
    yield Figure("embedding_cache/copy_differs", away, "clips", 0, "below")
    model = build_model(_FAMILY, Words(), 0).to(setting.device, torch.bfloat16).eval()
    policy = Policy(model)

    @torch.no_grad()
    def by_tower(pixels: Pixels) -> ClipFeatures:
        return policy.look(pixels.values.to(setting.device), pixels.grid_thw.to(setting.device))

    for name, look in (("tower", by_tower), ("still_computing", late)):
        with tempfile.TemporaryDirectory() as folder:
            for kind, differ in _compared(Path(folder), look, rule_of(_FAMILY, model)):
                yield Figure(f"embedding_cache/{name}/{kind}_differ", differ, "clips", 0, "below")


def _compared(folder: Path, look: Look, rule: PositionRule) -> Iterator[tuple[str, int]]:
    """Clips that differ from what ``look`` gives: as they were kept, and as another process finds
    them."""
    rows = [make_row(seed, model_type=_FAMILY) for seed in range(_CLIPS)]
    first, again = (_cache(folder, act, rule) for act in (look, _never))
    first.fill(rows)
    again.fill(rows)
    expected = [_arrived(look(_pixels(row))) for row in rows]
    for kind, filled in (("kept", first), ("read_back", again)):
        pairs = zip(rows, expected, strict=True)
        yield kind, sum(not _same(filled.seen_of(row), one) for row, one in pairs)


def _cache(folder: Path, look: Look, rule: PositionRule) -> "EmbeddingCache":
    from learner.model.embedding_cache import EmbeddingCache
    from learner.model.embedding_store import EmbeddingStore

    return EmbeddingCache(
        EmbeddingStore(folder, 2**33),
        "tower",
        rule,
        look=look,
        blank=Pixels(torch.empty(0, 0), torch.empty(0, 3, dtype=torch.long)),
        clip_of=_clip_of,
        max_over_ranks=lambda count: count,
        tokens_per_call=1,  # a clip by itself, as it is compared
    )


def _clip_of(row: Row) -> ProcessedClip:
    return RandomClips(_FAMILY).load(row.prompt.clip_key, "", "")


class _Late:
    """Features of a known value, which a card is busy with when they are returned. 32 MiB each
    where there is one."""

    def __init__(self, setting: Setting) -> None:
        size = 256 if setting.small else 4096
        self._factor = torch.full((size, size), 1.0 / size, device=setting.device)
        self._width = 64 if setting.small else 2**20

    def __call__(self, pixels: Pixels) -> ClipFeatures:
        product = self._factor
        for _ in range(20):
            product = product @ self._factor
        one = product.new_tensor([float(pixels.values.sum())])  # before the card is busy
        return ClipFeatures((product[0, 0] + one).expand(_TOKENS, self._width).contiguous())


def _never(pixels: Pixels) -> ClipFeatures:
    raise AssertionError("an entry that was just written was not there")


def _pixels(row: Row) -> Pixels:
    clip = _clip_of(row)
    return Pixels(torch.from_numpy(clip.pixel_values), torch.tensor([clip.grid_thw]))


def _arrived(features: ClipFeatures) -> ClipFeatures:
    """A copy on the CPU that waits for the card."""
    return ClipFeatures(features.embeds.cpu(), tuple(part.cpu() for part in features.deepstack))


def _same(one: ClipFeatures, other: ClipFeatures) -> bool:
    pairs = zip((one.embeds, *one.deepstack), (other.embeds, *other.deepstack), strict=True)
    return all(torch.equal(a.cpu(), b) for a, b in pairs)
