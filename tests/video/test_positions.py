import json
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from video.positions import PositionRule, of_response
from wire.errors import ConfigError

PAD = 7
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
    with pytest.raises(ConfigError, match="llava"):
        PositionRule.load(tmp_path)


def of_vllm(
    config: Any, ids: Sequence[int], start: int, count: int, grid: Sequence[int], seconds: float
) -> list[list[int]]:
    """vLLM's own answer, from its model class with only a config in it."""
    import torch
    from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration as Model
    from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange

    stand_in: Any = types.SimpleNamespace(config=config)
    stand_in.iter_mm_grid_thw = types.MethodType(Model.iter_mm_grid_thw, stand_in)
    data: Any = {
        "video_grid_thw": types.SimpleNamespace(data=torch.tensor(grid)),
        "second_per_grid_ts": types.SimpleNamespace(data=torch.tensor(seconds)),
    }
    feature = MultiModalFeatureSpec(
        data=data,
        modality="video",
        identifier="clip",
        mm_position=PlaceholderRange(offset=start, length=count),
    )
    positions, _ = Model.get_mrope_input_positions(stand_in, list(ids), [feature])
    result: list[list[int]] = positions.tolist()
    return result


@pytest.mark.slow
@pytest.mark.parametrize("tokens_per_second", [None, 2, 25])
def test_positions_are_vllms(tmp_path: Path, tokens_per_second: int | None) -> None:
    from transformers import Qwen2_5_VLConfig

    vision = {} if tokens_per_second is None else {"tokens_per_second": tokens_per_second}
    config = {"model_type": "qwen2_5_vl", "video_token_id": PAD, "vision_config": vision}
    (tmp_path / "config.json").write_text(json.dumps(config))  # None: a file that leaves it out
    rule = PositionRule.load(tmp_path)
    theirs = Qwen2_5_VLConfig.from_pretrained(tmp_path)
    random = np.random.default_rng(0)
    for _ in range(200):
        t, h, w = (int(n) for n in random.integers(1, 9, 3))
        before, after = (int(n) for n in random.integers(0, 9, 2))
        seconds = float(np.float32(2 / round(float(random.uniform(0.2, 30)), 3)))
        grid, count = (t, 2 * h, 2 * w), t * h * w
        ids = prompt_ids(before, count, after)
        expected = of_vllm(theirs, ids, before, count, grid, seconds)
        assert rule.of_prompt(ids, grid, seconds).tolist() == expected
