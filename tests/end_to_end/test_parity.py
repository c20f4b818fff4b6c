"""The real engine and the real learner compute the same logprobs, and no broken update passes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.runs import plain_vllm, write_clip
from wire.errors import WeightUpdateError

pytestmark = pytest.mark.ray

EXACT = 1e-5
Parameters = Iterator[tuple[str, Any]]


@pytest.fixture
def moved(stage: Any) -> Any:
    """A stage whose engine is one update behind its learner, with answers to probe."""
    stage.publish()
    sample = stage.samples[0]
    (rollout,) = stage.answer([sample])
    stage.train()

    def probe() -> float:
        """Largest difference between engine and learner on the same answers."""
        return stage.probe(sample, rollout.prompt, rollout.completions[:2])

    assert probe() > 1e-3
    return probe


def test_engine_and_learner_agree_before_and_after_an_update(stage: Any) -> None:
    clips = stage.samples[:2]
    before = stage.gap(clips), stage.gap(clips, n=1, temperature=0.0)
    stage.train()
    between = stage.gap(clips)
    stage.publish()
    after = stage.gap(clips), stage.gap(clips, n=1, temperature=0.0)
    assert between > 1e-3
    assert max(before + after) < EXACT
    assert stage.answer(clips)[0].policy_version.step == stage.version


def test_the_probe_gives_the_logprobs_of_an_answer_as_it_was_sampled(stage: Any) -> None:
    stage.publish()
    (rollout,) = stage.answer(stage.samples[:1])
    assert stage.probe(stage.samples[0], rollout.prompt, rollout.completions) < EXACT


def test_label_codes_have_the_learner_s_logprobs_whatever_else_the_engine_does(stage: Any) -> None:
    from rollout.render import Renderer

    stage.publish()
    samples = stage.samples[:4]
    prompted = [
        (sample, rollout.prompt)
        for sample, rollout in zip(samples, stage.answer(samples, n=1), strict=True)
    ]
    renderer = Renderer.load(stage.where.model, 512)
    blocked = renderer.blocked_tokens()[-1]  # an answer cannot hold it, a softmax does
    one, two, three, four, end = renderer.target("left up grow shrink")
    single = [(one,), (two,), (three,), (blocked,), (0,)]
    longer = [(one, two, three), (one, two, end), (one, four), (two, two), (one, blocked)]
    asked = [*prompted, *prompted]  # at the same time, and of the same clip
    assert stage.label_gap(asked, single) < EXACT
    assert stage.label_gap(prompted, [*longer, (four,)]) < EXACT


def test_a_prompt_has_the_ids_of_the_model_s_own_processor_call(stage: Any) -> None:
    from transformers import AutoProcessor

    from video.config import VideoConfig
    from video.decode import decode

    (rollout,) = stage.answer(stage.samples[:1])
    clip = decode(stage.samples[0].video, VideoConfig())
    (message,) = stage.prompts.trace(stage.samples[0])
    content = [{"type": "video"}, {"type": "text", "text": message.text}]
    processor = AutoProcessor.from_pretrained(stage.where.model)
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    own = processor(text=[text], videos=[clip.frames], videos_kwargs={"do_sample_frames": False})
    assert list(rollout.prompt.token_ids) == list(own["input_ids"][0])
    assert len(rollout.prompt.token_ids) >= 128


def test_a_group_computes_its_prompt_once(stage: Any) -> None:
    stage.publish()  # forgets what is cached
    first, second = stage.answer(stage.samples[:1]), stage.answer(stage.samples[:1], seed=2)
    whole_blocks = len(first[0].prompt.token_ids) // 32 * 32
    assert 0 < first[0].num_cached_tokens <= second[0].num_cached_tokens <= whole_blocks


def test_a_clip_crosses_into_the_engine_core_once(stage: Any) -> None:
    sent, clip, rollout = stage.bytes_of_group(stage.samples[3])
    assert len(rollout.completions) == 8
    print(f"a group of 8: {sent} bytes, its clip: {clip}, {sent / clip:.3f}")  # noqa: T201
    assert clip < sent < 1.1 * clip


def test_embeddings_in_place_of_pixels_give_the_same_logprobs(stage: Any, tmp_path: Path) -> None:
    assert stage.embeddings_agree(stage.samples[4], tmp_path) < EXACT


def test_narratives_in_text_agree_beside_videos(stage: Any, tmp_path: Path) -> None:
    stage.publish()
    videos = stage.samples[:3]
    told = stage.narrated(videos, tmp_path)
    rollouts = stage.answer(told, n=2)
    lengths = [len(r.prompt.token_ids) for r in stage.answer(videos, n=1)]
    assert all(
        r.prompt.semantic_tokenizer and len(r.prompt.token_ids) < length
        for r, length in zip(rollouts, lengths, strict=True)
    )
    assert stage.gap([*told, *videos]) < EXACT
    assert stage.probe(told[0], rollouts[0].prompt, rollouts[0].completions) < EXACT


def test_an_update_keeps_traces_and_each_token_has_the_version_that_wrote_it(
    stage: Any, moved: Any
) -> None:
    rollouts = stage.overtaken("keep")
    new, mixed = stage.version, 0
    for sample, rollout in zip(stage.samples, rollouts, strict=False):
        assert len(rollout.completions) == 8
        overtaken = [one for one in rollout.completions if one.version_changes]
        mixed += len(overtaken)
        for one in overtaken[:1]:
            ((at, version),) = [(c.first_token, c.version.step) for c in one.version_changes]
            assert (one.policy_version.step, version) == (new - 1, new)
            gaps = stage.token_gaps(sample, rollout.prompt, one)
            assert max(gaps[at:]) < EXACT, "new weights wrote these"
            assert max(gaps[:at]) > 1e-4, "old weights wrote those"
    assert mixed >= 8
    assert moved() < EXACT
    assert stage.gap(stage.samples[:8]) < EXACT


def test_an_update_can_have_traces_written_anew(stage: Any, moved: Any) -> None:
    before = stage.get(stage.rollouts.num_restarted.remote())
    rollouts = stage.overtaken("restart")
    restarted = stage.get(stage.rollouts.num_restarted.remote()) - before
    traces = [(r, one) for r in rollouts for one in r.completions]
    assert len(traces) == 64
    assert not any(one.version_changes for _, one in traces)
    steps = [one.policy_version.step for _, one in traces]
    assert steps.count(stage.version) >= restarted >= 8
    for sample, rollout in zip(stage.samples, rollouts, strict=False):
        newest = [c for c in rollout.completions if c.policy_version.step == stage.version]
        for one in newest[:1]:
            assert max(stage.token_gaps(sample, rollout.prompt, one)) < EXACT
    assert moved() < EXACT


@pytest.mark.slow
def test_an_update_can_wait_for_what_is_written(stage: Any, moved: Any) -> None:
    rollouts = stage.overtaken("wait")
    completions = [one for r in rollouts for one in r.completions]
    assert len(completions) == 64
    assert not any(one.version_changes for one in completions)
    steps = [one.policy_version.step for one in completions]
    assert set(steps) <= {stage.version - 1, stage.version}  # new: it had not been begun
    assert steps.count(stage.version - 1) >= 8
    for sample, rollout in zip(stage.samples, rollouts, strict=False):
        newest = [c for c in rollout.completions if c.policy_version.step == stage.version]
        for one in newest[:1]:
            assert max(stage.token_gaps(sample, rollout.prompt, one)) < EXACT
    assert moved() < EXACT


# --- broken updates


def drop(index: int) -> Callable[[dict], dict | None]:
    return lambda chunk: None if chunk["header"]["index"] == index else chunk


def damage(chunk: dict) -> dict:
    data = chunk["data"]  # the memory itself
    data[len(data) // 2 // 4096 * 4096] ^= 1  # the first byte of a page
    return chunk


def break_off(chunk: dict) -> dict:
    if chunk["header"]["index"] == 1:
        raise ConnectionError("the learner went away")
    return chunk


def without_a_query(parameters: Parameters) -> Parameters:
    """vLLM fuses queries, keys and values, so every parameter of its own is still touched."""
    return ((n, t) for n, t in parameters if not n.endswith("layers.0.self_attn.q_proj.weight"))


def with_two_swapped(parameters: Parameters) -> Parameters:
    tensors = dict(parameters)
    first, second = (
        n
        for n in tensors
        if n.endswith(("0.mlp.up_proj.weight", "0.mlp.gate_proj.weight")) and "language_model" in n
    )
    tensors[first], tensors[second] = tensors[second], tensors[first]
    return iter(tensors.items())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop(0), "missing"),
        (drop(2), "missing"),
        (damage, "not the one that was sent"),
        (break_off, "went away"),
    ],
)
def test_an_update_that_is_not_whole_fails_and_a_full_one_mends_it(
    stage: Any, moved: Any, spoil: Callable[[dict], dict | None], message: str
) -> None:
    with pytest.raises((WeightUpdateError, ConnectionError), match=message):
        stage.publish(spoil=spoil)
    stage.publish()
    assert moved() < EXACT
    assert stage.gap(stage.samples[:2]) < EXACT


@pytest.mark.parametrize("alter", [without_a_query, with_two_swapped])
def test_the_probe_sees_wrong_weights_that_arrive_in_good_order(
    stage: Any, moved: Any, alter: Callable[[Parameters], Parameters]
) -> None:
    stage.publish(alter=alter)
    assert moved() > EXACT
    stage.publish()
    assert moved() < EXACT


def test_the_probe_sees_an_update_that_was_acknowledged_but_never_sent(
    stage: Any, moved: Any
) -> None:
    stage.publish(client=stage.where.silent_client)
    assert moved() > EXACT


# --- slow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "fps", "frames"), [((84, 56), 2, 8), ((56, 140), 10, 24), ((224, 168), 1, 4)]
)
def test_clips_of_other_shapes_and_speeds_agree_too(
    stage: Any, size: tuple[int, int], fps: int, frames: int
) -> None:
    width, height = size
    video = write_clip(stage.where.root / f"{width}x{height}.mp4", width, height, fps, frames)
    sample = replace(stage.samples[0], id="other", video=str(video))
    stage.publish()
    assert stage.gap([sample]) < EXACT
    (rollout,) = stage.answer([sample])
    assert stage.probe(sample, rollout.prompt, rollout.completions) < EXACT


@pytest.mark.slow
def test_many_seeded_groups_computed_in_parts_are_the_same_again(stage: Any) -> None:
    samples = stage.samples[:40]
    stage.publish()
    first = stage.answer(samples, seed=7)
    stage.publish()  # empties the caches: the same work again
    second = stage.answer(samples, seed=7)
    assert tokens_of(first) == tokens_of(second)
    assert tokens_of(first) != tokens_of(stage.answer(samples, seed=8))
    assert stage.gap(samples, seed=7) < EXACT


@pytest.mark.slow
def test_plain_vllm_opens_an_exported_model_and_writes_the_same(stage: Any) -> None:
    exported, sample = stage.where.root / "exported", stage.samples[0]
    stage.publish()
    stage.get(stage.learner.export.remote(exported))
    (rollout,) = stage.answer([sample], n=1, temperature=0.0)
    answer = plain_vllm(exported, sample.video, stage.prompts.trace(sample))
    assert answer["prompt"] == list(rollout.prompt.token_ids)
    assert answer["response"] == list(rollout.completions[0].token_ids)


@pytest.mark.slow
def test_a_killed_actor_leaves_no_process_of_its_engine(
    start_rollouts: Callable[[], Any], place: Any
) -> None:
    import psutil
    import ray

    rollouts = start_rollouts()
    actor, *engine = map(psutil.Process, ray.get(rollouts.processes.remote()))
    assert len(engine) >= 2  # engine core and worker at least
    actor.kill()
    _, alive = psutil.wait_procs(engine, timeout=10)
    assert alive == []


def tokens_of(rollouts: list[Any]) -> list[Any]:
    return [completion.token_ids for r in rollouts for completion in r.completions]
