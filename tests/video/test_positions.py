import inspect
import json
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from video.families import FAMILIES
from video.positions import PositionRule, of_response
from wire.errors import ConfigError

PAD, START, END = 7, 3, 4
RULE = PositionRule(
    model_type="qwen2_5_vl", video_token_id=PAD, merge_size=2, tokens_per_second=2.0
)


def prompt_ids(before: int, video: int, after: int) -> list[int]:
    return [1] * before + [PAD] * video + [2] * after


def test_a_short_clip_worked_by_hand() -> None:
    # 2 steps of time, 1 x 2 merged patches, 0.5 s apart at 2 positions a second: one position each
    positions = RULE.of_prompt(prompt_ids(3, 4, 2), (2, 2, 4), 0.5)
    assert positions.tolist() == [
        [0, 1, 2, 3, 3, 4, 4, 5, 6],
        [0, 1, 2, 3, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 3, 4, 5, 6],
    ]


def test_text_goes_on_after_the_largest_position_time_included() -> None:
    # 3 steps of 2 s at 2 positions a second: time reaches 1 + 8, so text starts at 10
    positions = RULE.of_prompt(prompt_ids(1, 3, 2), (3, 2, 2), 2.0)
    assert positions.tolist() == [[0, 1, 5, 9, 10, 11], [0, 1, 1, 1, 10, 11], [0, 1, 1, 1, 10, 11]]


def test_time_is_cut_to_int_not_rounded() -> None:
    positions = RULE.of_prompt(prompt_ids(0, 4, 0), (4, 2, 2), 0.4)  # 0, 0.8, 1.6, 2.4
    assert positions[0].tolist() == [0, 0, 1, 2]


def test_a_prompt_that_ends_with_its_video() -> None:
    assert RULE.of_prompt(prompt_ids(2, 4, 0), (1, 4, 4), 1.0).shape == (3, 6)


def test_text_counts_up() -> None:
    assert RULE.of_text([5, 6, 9]).tolist() == [[0, 1, 2]] * 3


def test_a_response_goes_on_from_the_prompt() -> None:
    prompt = RULE.of_prompt(prompt_ids(1, 3, 2), (3, 2, 2), 2.0)
    assert of_response(prompt, 3).tolist() == [[12, 13, 14]] * 3
    whole = RULE.of_prompt([*prompt_ids(1, 3, 2), 9, 9, 9], (3, 2, 2), 2.0)
    assert np.array_equal(np.concatenate([prompt, of_response(prompt, 3)], axis=1), whole)


@pytest.mark.parametrize("ids", [[1, 2], [1, PAD, PAD], [PAD, 1, PAD, PAD], [PAD] * 4])
def test_a_prompt_without_one_run_of_the_clips_tokens_is_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="placeholder ids"):
        RULE.of_prompt(ids, (3, 2, 2), 1.0)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "video_token_id": 1}))
    with pytest.raises(ConfigError, match=r"llava.*qwen2_vl, qwen2_5_vl, qwen3_vl"):
        PositionRule.load(tmp_path)


# --- the other families

QWEN2 = PositionRule(model_type="qwen2_vl", video_token_id=PAD, merge_size=2, tokens_per_second=1.0)
QWEN3 = PositionRule(model_type="qwen3_vl", video_token_id=PAD, merge_size=2, tokens_per_second=1.0)


def block_ids(blocks: Sequence[int], times: Sequence[int]) -> list[int]:
    """As Qwen3-VL's processor lays out a clip: start, then times, start, video, end; then end."""
    ids = [START]
    for video, time in zip(blocks, times, strict=True):
        ids += [8] * time + [START] + [PAD] * video + [END]
    return [*ids, END]


def test_qwen2_counts_temporal_patches_however_long_they_are() -> None:
    positions = QWEN2.of_prompt(prompt_ids(1, 3, 1), (3, 2, 2), 1.0)
    assert positions[0].tolist() == [0, 1, 2, 3, 4]


def test_qwen3_numbers_each_temporal_patch_by_itself_worked_by_hand() -> None:
    # start, time, start | 1 x 2 patches | end, time, start | 1 x 2 patches | end, end, text
    ids = [*block_ids([2, 2], [1, 1]), 2]
    assert QWEN3.of_prompt(ids, (2, 2, 4), 1.0).tolist() == [
        [0, 1, 2, 3, 3, 5, 6, 7, 8, 8, 10, 11, 12],
        [0, 1, 2, 3, 3, 5, 6, 7, 8, 8, 10, 11, 12],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    ]


def test_the_span_of_a_qwen3_clip_begins_with_the_start_of_its_first_block() -> None:
    ids = [1, *block_ids([2, 2], [3, 3]), 2]
    start, length = QWEN3.video_span(ids)
    assert ids[start : start + length] == [START, PAD, PAD, END, 8, 8, 8, START, PAD, PAD]
    assert RULE.video_span([1, 1, PAD, PAD, 2]) == (2, 2)


@pytest.mark.parametrize("blocks", [[4], [2, 1], [2, 2, 2]])
def test_blocks_that_are_not_the_clips_are_refused(blocks: list[int]) -> None:
    with pytest.raises(ValueError, match="needs 2 of 2"):
        QWEN3.of_prompt(block_ids(blocks, [1] * len(blocks)), (2, 2, 4), 1.0)


def of_vllm(
    model_type: str, config: Any, ids: Sequence[int], span: tuple[int, int], clip: Sequence[Any]
) -> list[list[int]]:
    """vLLM's own answer, from its model class with only a config in it."""
    import importlib

    import torch
    from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange

    module = importlib.import_module(f"vllm.model_executor.models.{model_type}")
    model = getattr(module, FAMILIES[model_type].model_class)
    stand_in: Any = types.SimpleNamespace(config=config)
    for name in ("iter_mm_grid_thw", "_get_mrope_input_positions"):
        if hasattr(model, name):  # the latter is static
            own = inspect.getattr_static(model, name)
            method = own if isinstance(own, staticmethod) else types.MethodType(own, stand_in)
            setattr(stand_in, name, method)
    grid, seconds = clip
    data: Any = {
        "video_grid_thw": types.SimpleNamespace(data=torch.tensor(grid)),
        "second_per_grid_ts": types.SimpleNamespace(data=torch.tensor([seconds])),
    }
    feature = MultiModalFeatureSpec(
        data=data,
        modality="video",
        identifier="clip",
        mm_position=PlaceholderRange(offset=span[0], length=span[1]),
    )
    positions, _ = model.get_mrope_input_positions(stand_in, list(ids), [feature])
    result: list[list[int]] = positions.tolist()
    return result


@pytest.mark.slow
@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("tokens_per_second", [None, 2, 25])
def test_positions_are_vllms(
    tmp_path: Path, model_type: str, tokens_per_second: int | None
) -> None:
    import transformers

    vision = {} if tokens_per_second is None else {"tokens_per_second": tokens_per_second}
    config = {
        "model_type": model_type,
        "video_token_id": PAD,
        "vision_start_token_id": START,
        "vision_end_token_id": END,
        "vision_config": vision,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))  # None: a file that leaves it out
    rule = PositionRule.load(tmp_path)
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    random = np.random.default_rng(0)
    for _ in range(200):
        t, h, w = (int(n) for n in random.integers(1, 9, 3))
        before, after = (int(n) for n in random.integers(0, 9, 2))
        seconds = float(np.float32(2 / round(float(random.uniform(0.2, 30)), 3)))
        if model_type != "qwen2_5_vl":
            seconds = 1.0  # as processed: such a model's positions know no seconds
        ids = [1] * before + [PAD] * (t * h * w) + [2] * after
        if rule.family.writes_times:
            times = [int(n) for n in random.integers(0, 9, t)]
            ids = [1] * before + block_ids([h * w] * t, times) + [2] * after
        grid = (t, 2 * h, 2 * w)
        expected = of_vllm(model_type, theirs, ids, rule.video_span(ids), (grid, seconds))
        assert rule.of_prompt(ids, grid, seconds).tolist() == expected
