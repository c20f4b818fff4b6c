"""With the cache a step is the same step, and nothing stale can be found in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.model.embedding_cache import EmbeddingCache, embedding_key, tower_hash
from learner.model.embedding_store import EmbeddingStore
from learner.model.policy import Policy
from learner.objective.loss import supervised_loss
from learner.shared_prefix.batch import TrainBatch, make_batch
from learner.shared_prefix.clip_features import ClipFeatures, Pixels
from learner.shared_prefix.rows import Row
from tests.learner.builders import RandomClips, make_prompt, make_row
from tests.tiny_models import MODEL_TYPES, write_tiny_model
from video.positions import PositionRule
from video.processor import ProcessedClip
from wire.errors import ParityError

torch.set_num_threads(1)


@dataclass
class Case:
    """A family's tiny model with a frozen tower, and how often its tower and clips were asked."""

    policy: Policy
    rule: PositionRule
    clips: RandomClips
    calls: list[int] = field(default_factory=list)
    """Clips of each call of the tower."""
    loaded: list[str] = field(default_factory=list)

    def rows(self, count: int = 3) -> list[Row]:
        model_type = self.rule.model_type
        sizes = [((3, 6, 1), 4), ((4, 2), 9), ((2,), 1), ((5, 1), 2)]
        return [make_row(i, *sizes[i % 4], model_type=model_type) for i in range(count)]

    @torch.no_grad()
    def look(self, pixels: Pixels) -> ClipFeatures:
        self.calls.append(len(pixels.grid_thw))
        embeds, *deepstack = self.policy(pixels)
        return ClipFeatures(embeds, tuple(deepstack))

    def load(self, row: Row) -> ProcessedClip:
        self.loaded.append(row.prompt.clip_key)
        return self.clips.load(row.prompt.clip_key, row.video, row.prompt.fingerprint)

    def hash(self) -> str:
        named = self.policy.tower.named_parameters()
        return tower_hash(named, self.policy.tower_config, "cpu")

    def cache(self, store: EmbeddingStore, **changed: Any) -> EmbeddingCache:
        merge = self.rule.merge_size
        values: dict[str, Any] = {
            "store": store,
            "tower": self.hash(),
            "rule": self.rule,
            "look": self.look,
            "blank": self.policy.blank_clip((1, merge, merge)),
            "clip_of": self.load,
            "max_over_ranks": lambda number: number,
        }
        return EmbeddingCache(**{**values, **changed})

    def plain(self, rows: Sequence[Row]) -> TrainBatch:
        return make_batch(rows, self.load, self.rule)

    def cached(self, rows: Sequence[Row], cache: EmbeddingCache) -> TrainBatch:
        cache.fill(rows)
        return make_batch(rows, cache.clip_of, self.rule, cache.seen_of)

    def scores(self, batch: TrainBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logprobs, and the gradient of the text model, flat."""
        self.policy.zero_grad()
        logp = self.policy(batch).logp
        supervised_loss(logp, batch.advantage, batch.mask, 16).loss.backward()
        grads = [p.grad.flatten() for p in self.policy.parameters() if p.grad is not None]
        return logp.detach(), torch.cat(grads)


@pytest.fixture(scope="module", params=MODEL_TYPES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), request.param)


def load_case(folder: Path) -> Case:
    policy = Policy.load(folder, "float32")
    policy.tower.requires_grad_(False)
    rule = PositionRule.load(folder)
    return Case(policy, rule, RandomClips(rule.model_type))


@pytest.fixture
def case(family: Path) -> Case:
    return load_case(family)


@pytest.fixture
def qwen(model_dir: Path) -> Case:
    """One family, where the family does not matter."""
    return load_case(model_dir)


def new_store(folder: Path) -> EmbeddingStore:
    return EmbeddingStore(folder, 2**30)


def test_logprobs_and_gradient_are_the_same_to_the_bit(case: Case, tmp_path: Path):
    """Looked at now, in memory, and read from disk by another process."""
    rows = case.rows()
    logp, gradient = case.scores(case.plain(rows))
    first = case.cache(new_store(tmp_path))
    again = case.cache(new_store(tmp_path))
    for cache in (first, first, again):
        batch = case.cached(rows, cache)
        assert batch.pixel_values.numel() == 0
        found, its_gradient = case.scores(batch)
        assert torch.equal(found, logp)
        assert torch.equal(its_gradient, gradient)
    assert all(p.grad is None for p in case.policy.tower.parameters())


def test_deepstack_features_are_cached_too(case: Case, tmp_path: Path):
    (row,) = case.rows(1)
    cache = case.cache(new_store(tmp_path))
    cache.fill([row])
    assert len(cache.seen_of(row).deepstack) == (2 if case.rule.model_type == "qwen3_vl" else 0)


def test_hits_need_neither_the_tower_nor_pixels(case: Case, tmp_path: Path):
    rows = case.rows()
    case.cache(new_store(tmp_path)).fill(rows)
    assert case.calls == [3]
    case.calls.clear()
    case.loaded.clear()
    cache = case.cache(new_store(tmp_path))
    case.policy(case.cached(rows, cache))
    assert case.calls == []
    assert case.loaded == []


def test_features_and_scores_of_a_batch_with_seen_clips_never_run_the_tower(case: Case):
    rows = [replace(row, responses=row.responses[:1]) for row in case.rows()]
    batch = case.cached(rows, case.cache(EmbeddingStore(None, 0)))
    expected = case.policy(case.plain(rows), features=True)

    def refuse(*_: object) -> None:
        raise AssertionError("the tower was run")

    with case.policy.tower.register_forward_pre_hook(refuse):
        assert torch.equal(case.policy(batch, features=True), expected)
        with pytest.raises(AssertionError, match="the tower was run"):
            case.policy(case.plain(rows))


def test_an_epoch_later_every_clip_is_found(qwen: Case, tmp_path: Path):
    rows, cache = qwen.rows(4), qwen.cache(new_store(tmp_path))
    for part in (rows[:2], rows[2:]):
        cache.fill(part)
    assert cache.take_counts() == {"wanted": 4.0, "looked_at": 4.0}
    for part in (rows[1::2], rows[::2]):
        cache.fill(part)
    assert cache.take_counts() == {"wanted": 4.0, "looked_at": 0.0}


def test_a_clip_that_is_wanted_again_before_the_update_counts_once(qwen: Case, tmp_path: Path):
    """As when logprobs are computed before the first of several updates."""
    rows, cache = qwen.rows(3), qwen.cache(new_store(tmp_path))
    cache.fill(rows[:1])
    cache.take_counts()
    cache.fill(rows)
    cache.fill(rows)
    assert cache.take_counts() == {"wanted": 3.0, "looked_at": 2.0}


def test_rows_that_share_a_clip_ask_for_it_once(qwen: Case, tmp_path: Path):
    (row,) = qwen.rows(1)
    cache = qwen.cache(new_store(tmp_path))
    cache.fill([row, row, replace(row, responses=row.responses[:1])])
    assert qwen.calls == [1]
    assert cache.take_counts() == {"wanted": 1.0, "looked_at": 1.0}


def test_a_row_without_a_clip_asks_for_nothing(qwen: Case, tmp_path: Path):
    (row,) = qwen.rows(1)
    text = replace(row, prompt=replace(row.prompt, token_ids=(5, 6), clip_key="", fingerprint=""))
    cache = qwen.cache(new_store(tmp_path))
    cache.fill([text])
    assert qwen.calls == []
    assert cache.take_counts() == {"wanted": 0.0, "looked_at": 0.0}


def test_a_batch_of_text_alone_runs_no_tower_beside_batches_whose_clips_are_known(case: Case):
    """Under ZeRO-3 the other ranks, which have seen their clips, would never come to its call."""
    (row,) = case.rows(1)
    text = replace(row, prompt=replace(row.prompt, token_ids=(5, 6), clip_key="", fingerprint=""))
    batch = case.cached([text], case.cache(EmbeddingStore(None, 0)))
    calls = []
    expected = case.scores(case.plain([text]))
    with case.policy.tower.register_forward_pre_hook(lambda *_: calls.append(1)):
        found = case.scores(batch)
    assert calls == []
    assert torch.equal(found[0], expected[0])


# -- nothing stale --


def nudge(case: Case) -> None:
    """The smallest change of one weight that there is."""
    parameter = list(case.policy.tower.parameters())[-1].data.view(-1)
    parameter[-1] = torch.nextafter(parameter[-1], torch.tensor(9.0))


def nudge_patches(case: Case) -> None:
    case.policy.tower.patch_embed.proj.weight.data.view(-1)[0] += 1


def other_precision(case: Case) -> None:
    case.policy.to(torch.bfloat16)


def other_setting(case: Case) -> None:
    """No weight: how they are used."""
    case.policy.tower.config.spatial_merge_size = 4


@pytest.mark.parametrize("change", [nudge, nudge_patches, other_precision, other_setting])
def test_another_tower_finds_nothing_and_is_looked_at(case: Case, tmp_path: Path, change: Any):
    (row,) = case.rows(1)
    case.cache(new_store(tmp_path)).fill([row])
    change(case)
    cache = case.cache(new_store(tmp_path))
    cache.fill([row])
    assert cache.take_counts() == {"wanted": 1.0, "looked_at": 1.0}
    assert case.calls == [1, 1]
    assert torch.equal(cache.seen_of(row).embeds, case.look(Pixels(*pixels_of(case, row))).embeds)


def pixels_of(case: Case, row: Row) -> tuple[torch.Tensor, torch.Tensor]:
    clip = case.clips.load(row.prompt.clip_key, "", "")
    return torch.from_numpy(clip.pixel_values), torch.tensor([clip.grid_thw])


def test_every_weight_of_the_tower_is_in_its_hash(case: Case):
    """Mergers, deepstack mergers and learnt positions too."""
    before = case.hash()
    for name, parameter in case.policy.tower.named_parameters():
        value = parameter.data.view(-1)[0].clone()
        parameter.data.view(-1)[0] = value + 1e-3
        assert case.hash() != before, name
        parameter.data.view(-1)[0] = value
    assert case.hash() == before


def test_the_text_model_is_not_in_it(case: Case):
    """Else no step would find what the one before has left."""
    before = case.hash()
    case.policy.vlm.model.language_model.norm.weight.data += 1
    assert case.hash() == before


def test_content_sampling_and_processor_each_change_the_key(tmp_path: Path):
    """Through the clip store's own keys."""
    import numpy as np

    from tests.video.formats import Format, write_video
    from video.cache import ClipStore
    from video.config import VideoConfig

    class Processor:
        def __init__(self, processor_hash: str) -> None:
            self.processor_hash = processor_hash

        def pixel_bounds(self, config: VideoConfig) -> tuple[int, int]:
            return 1, 10**6

    paths = [
        write_video(tmp_path / f"{n}.mp4", Format(f"{n}.mp4", size=(64, 48)), range(n, n + 8))
        for n in range(2)
    ]
    config = VideoConfig(max_frames=4)

    def key(path: Path | str, processor: str = "p", config: VideoConfig = config) -> str:
        store = ClipStore(tmp_path / "cache", Processor(processor), config)  # type: ignore[arg-type]
        prompt = replace(make_prompt(), clip_key=store.key_of(path))
        return embedding_key(prompt, "tower")

    found = [
        key(paths[0]),
        key(paths[1]),
        key(paths[0], processor="q"),
        key(paths[0], config=VideoConfig(max_frames=6)),
        key(paths[0], config=VideoConfig(max_frames=4, max_pixels=28 * 28)),
        key(f"{paths[0]}#t=0,0.5"),
        key(f"{paths[0]}#view=blank"),
    ]
    assert len(set(found)) == len(found)
    assert key(paths[0]) == found[0]
    before = paths[0].read_bytes()
    paths[0].write_bytes(before + np.zeros(8, np.uint8).tobytes())
    assert key(paths[0]) != found[0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.text(max_size=3)] * 3), unique=True, min_size=2, max_size=6))
def test_keys_of_different_parts_differ(parts: list[tuple[str, str, str]]):
    """However the parts are cut: ("a", "bc") is not ("ab", "c")."""
    keys = {
        embedding_key(replace(make_prompt(), clip_key=clip, fingerprint=pixels), tower)
        for clip, pixels, tower in parts
    }
    assert len(keys) == len(parts)


def test_pixels_that_differ_from_the_rollouts_are_refused_not_cached(qwen: Case, tmp_path: Path):
    def refuse(row: Row) -> ProcessedClip:
        raise ParityError("it differs")

    (row,) = qwen.rows(1)
    with pytest.raises(ParityError):
        qwen.cache(new_store(tmp_path), clip_of=refuse).fill([row])
    assert not list(tmp_path.rglob("*.safetensors"))


def test_another_fingerprint_under_the_same_clip_key_is_not_found(qwen: Case, tmp_path: Path):
    (row,) = qwen.rows(1)
    cache = qwen.cache(new_store(tmp_path))
    cache.fill([row])
    cache.fill([replace(row, prompt=replace(row.prompt, fingerprint="other pixels"))])
    assert cache.take_counts() == {"wanted": 2.0, "looked_at": 2.0}


def test_an_entry_of_another_length_is_made_anew(qwen: Case, tmp_path: Path):
    (row,) = qwen.rows(1)
    store = new_store(tmp_path)
    cache = qwen.cache(store)
    cache.fill([row])
    key = embedding_key(row.prompt, qwen.hash())
    seen = store.get(key)
    assert seen is not None
    short = ClipFeatures(seen.features.embeds[:-1].clone(), seen.features.deepstack)
    store.put(replace(seen, features=short))
    cache.fill([row])
    assert qwen.calls == [1, 1]
    assert len(cache.seen_of(row).embeds) == seen.num_tokens


# -- calls of the tower --


def test_clips_are_looked_at_together_up_to_a_bound_and_the_result_is_the_same(
    case: Case, tmp_path: Path
):
    rows = case.rows(4)
    one_by_one = case.cache(new_store(tmp_path / "1"), tokens_per_call=1)
    in_pairs = case.cache(new_store(tmp_path / "2"), tokens_per_call=20)
    one_by_one.fill(rows)
    in_pairs.fill(rows)
    assert case.calls == [1, 1, 1, 1, 2, 2]
    for row in rows:
        alone, paired = one_by_one.seen_of(row), in_pairs.seen_of(row)
        assert torch.allclose(alone.embeds, paired.embeds, atol=1e-6)
        for layer, other in zip(alone.deepstack, paired.deepstack, strict=True):
            assert torch.allclose(layer, other, atol=1e-6)


def test_a_rank_with_nothing_to_look_at_makes_the_busiest_ranks_calls(case: Case, tmp_path: Path):
    rows = case.rows(2)
    cache = case.cache(new_store(tmp_path), max_over_ranks=lambda number: 3, tokens_per_call=1)
    cache.fill(rows)
    assert case.calls == [1, 1, 1]
    before = cache.seen_of(rows[0]).embeds.clone()
    cache.fill(rows)
    assert len(case.calls) == 6
    assert torch.equal(cache.seen_of(rows[0]).embeds, before)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2  # no filler is kept


@pytest.mark.parametrize("part", ["merger", "blocks"])
def test_a_tower_that_trains_in_any_part_is_said_to(case: Case, part: str):
    """A merger of its own rate, or an adapter on the tower: nothing of it may be cached."""
    assert not case.policy.trains_tower
    last = list(getattr(case.policy.tower, part).parameters())[-1]
    last.requires_grad_(True)
    assert case.policy.trains_tower


# --- narratives as embeddings


def test_embeddings_that_a_narrative_brings_take_the_place_of_the_towers(case: Case) -> None:
    """With the tower's own features as embeddings the scores are those of the pixels."""
    cache = case.cache(EmbeddingStore(None, 0, recent_bytes=2**20))
    video = make_row(0, (3, 2), model_type=case.rule.model_type)
    cache.fill([video])
    seen = cache.seen_of(video)
    prompt = replace(video.prompt, clip_key="told", semantic_tokenizer="3f9c0a7b51de")
    told = replace(video, prompt=prompt)
    clip = replace(
        case.load(video),
        pixel_values=np.zeros((0, 1), np.float32),
        embeddings=seen.embeds.numpy(),
    )
    case.calls.clear()
    own = case.cache(EmbeddingStore(None, 0, recent_bytes=2**20), clip_of=lambda row: clip)
    batch = case.cached([told], own)
    assert case.calls == [], "no tower has run"
    assert own.take_counts() == {"wanted": 0, "looked_at": 0}
    assert batch.seen is not None
    assert len(batch.seen.deepstack) == case.rule.num_deepstack == len(seen.deepstack)
    assert not any(layer.any() for layer in batch.seen.deepstack)
    if not seen.deepstack:  # what goes to inner layers a narrative does not bring
        logp, plain = case.scores(batch)[0], case.scores(case.cached([video], cache))[0]
        torch.testing.assert_close(logp, plain)
