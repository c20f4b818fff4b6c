"""What a group behind one prompt saves in the learner: time and activation memory of a step.

    python -m tests.benchmarks.shared_prefix [--json FILE]
    python -m tests.benchmarks.shared_prefix --device cuda --dtype bfloat16 --shape 3b

Three sides, forward and backward, taking turns, medians:

    shared    a group as the learner lays it out
    repeated  the same code, the prompt repeated per response; the vision tower still runs once
    plain     transformers' own forward pass over the repeated prompts, the tower once per response

The ideal speed-up is the ratio of FLOPs (tests/benchmarks/flops.py). Activation memory is the bytes
that autograd keeps, each storage once. On a GPU the rate and MFU of a step are printed as well;
``--peak-tflops`` is the card's (989: an H100 in bfloat16). Under four minutes on two cores.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from learner.model.policy import Policy
from learner.shared_prefix.batch import TrainBatch, make_batch
from learner.shared_prefix.rows import Response, Row, one_row_per_response
from tests.benchmarks.figures import Figure, report
from tests.benchmarks.flops import Sizes, Work, flops
from video.positions import PositionRule
from video.processor import ProcessedClip
from wire.token_arrays import TokenIds
from wire.types import Prompt

_PROMPT, _GROUP = 1024, 8
_GRID = (10, 16, 24)  # 960 video tokens
_RATIOS = (16, 4, 1)
_REPEATS = 3
_VIDEO_TOKEN = 5
_SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "cpu": {
        "text_config": {
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "vocab_size": 8192,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [8, 12, 12],
                "rope_theta": 1e6,
            },
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "out_hidden_size": 512,
            "fullatt_block_indexes": [0, 1],
        },
    },
    "3b": {  # Qwen2.5-VL-3B-Instruct
        "text_config": {
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [16, 24, 24],
                "rope_theta": 1e6,
            },
        },
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "fullatt_block_indexes": list(range(32)),
        },
    },
}


class Side(NamedTuple):
    """One way to compute a step."""

    name: str
    act: Callable[[], Tensor]
    """Forward; gives the loss."""
    work: Work


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--shape", choices=list(_SHAPES), default="cpu")
    parser.add_argument("--peak-tflops", type=float, default=989.0)
    options = parser.parse_args()
    torch.manual_seed(0)
    vlm = build_vlm(options.shape, getattr(torch, options.dtype)).to(options.device)
    policy = Policy(vlm)
    peak = options.peak_tflops if options.device != "cpu" else None
    figures = (
        figure for ratio in _RATIOS for figure in measure(policy, ratio, options.device, peak)
    )
    return report(figures, options.json)


def measure(policy: Policy, ratio: int, device: str, peak_tflops: float | None) -> list[Figure]:
    """All figures of one ratio of prompt to response."""
    row = make_row(_PROMPT, _PROMPT // ratio, _GROUP, _GRID)
    at_goal = ratio == _RATIOS[0]
    taken = [side for side in sides(policy, row, device) if at_goal or side.name != "plain"]
    seconds = taking_turns([side.act for side in taken], policy, device)
    saved = [saved_bytes(side.act, policy) for side in taken[:2]]
    sizes = Sizes.of(policy.vlm)
    counts = [flops(sizes, side.work).total for side in taken]
    ideal, speedup = counts[1] / counts[0], seconds[1] / seconds[0]
    less = saved[1] / saved[0]
    named = f"{ratio}:1"
    found = [
        Figure(f"{named}/ideal_speedup", ideal, "x", 1.0, "above"),
        Figure(f"{named}/speedup", speedup, "x", 1.0, "above"),
        Figure(f"{named}/share_of_ideal", speedup / ideal, "", 0.75 if at_goal else 0.6, "above"),
        Figure(f"{named}/seconds_shared", seconds[0], "s", 60.0, "below"),
        Figure(f"{named}/activations_shared", saved[0] / 2**20, "MiB", 2**16, "below"),
        Figure(f"{named}/activations_down", less, "x", 3.0 if at_goal else 1.0, "above"),
    ]
    if at_goal:
        found += [Figure(f"{named}/speedup_over_plain", seconds[2] / seconds[0], "x", 1.0, "above")]
    if peak_tflops is not None:
        for side, spent, count in zip(taken, seconds, counts, strict=True):
            # tokens of the repeated layout, so that all sides count the same as done
            rate, mfu = taken[1].work.tokens / spent, count / spent / peak_tflops / 1e12
            found += [
                Figure(f"{named}/{side.name}/tokens_per_s", rate, "tokens/s", 0.0, "above"),
                Figure(f"{named}/{side.name}/mfu", mfu, "", 0.0, "above"),
            ]
    return found


def sides(policy: Policy, row: Row, device: str) -> tuple[Side, Side, Side]:
    """Shared, repeated, plain: the same loss."""
    layouts = [batch_of(rows, _GRID).to(device) for rows in ([row], one_row_per_response(row))]
    grids = layouts[0].grid_thw.tolist()
    first, second = (Work.of(batch.layout, grids) for batch in layouts)
    third = Work.of(layouts[1].layout, grids * len(row.responses))
    return (
        Side("shared", lambda: -policy(layouts[0]).logp.mean(), first),
        Side("repeated", lambda: -policy(layouts[1]).logp.mean(), second),
        Side("plain", lambda: plain_loss(policy, layouts[1], len(row.responses)), third),
    )


def plain_loss(policy: Policy, batch: TrainBatch, group_size: int) -> Tensor:
    """transformers over a padded batch, as trainers without shared prefix do it. All sequences are
    of one length, so there is nothing to pad."""
    length = batch.lengths[0]
    logits = policy.vlm(
        input_ids=batch.input_ids.view(group_size, -1),
        position_ids=batch.position_ids.view(3, group_size, -1),
        pixel_values_videos=batch.pixel_values.to(policy.vlm.dtype).repeat(group_size, 1),
        video_grid_thw=batch.grid_thw.repeat(group_size, 1),
        use_cache=False,
        logits_to_keep=length + 1,
    ).logits[:, :-1]
    target = batch.target.view(group_size, length, 1)
    return -logits.float().log_softmax(-1).gather(-1, target).mean()


def taking_turns(acts: Sequence[Callable[[], Tensor]], policy: Policy, device: str) -> list[float]:
    """Median seconds of forward and backward of each."""
    spent: list[list[float]] = [[] for _ in acts]
    first = 0 if device == "cpu" else -1  # compiling is not what a step costs
    for turn in range(first, _REPEATS):
        for act, seconds in zip(acts, spent, strict=True):
            policy.zero_grad(set_to_none=True)
            wait(device)
            start = time.perf_counter()
            act().backward()
            wait(device)
            if turn >= 0:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in spent]


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def saved_bytes(act: Callable[[], Tensor], policy: Policy) -> int:
    """Bytes that autograd keeps for the backward pass, each storage once, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in policy.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = act()
    total = sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in weights)
    del loss
    return total


def batch_of(rows: Sequence[Row], grid: tuple[int, int, int]) -> TrainBatch:
    rule = PositionRule("qwen2_5_vl", _VIDEO_TOKEN, merge_size=2, tokens_per_second=2)
    pixels = np.random.default_rng(0).normal(size=(int(np.prod(grid)), 1176)).astype(np.float32)
    clip = ProcessedClip(
        pixel_values=pixels,
        grid_thw=grid,
        seconds_per_grid=0.5,
        placeholder_ids=(),
        fingerprint="",
        clip_key="clip",
    )
    return make_batch(rows, lambda row: clip, rule)


def make_row(
    prompt_tokens: int, response_tokens: int, group_size: int, grid: tuple[int, int, int]
) -> Row:
    """A group about one clip, of random words."""
    draw = np.random.default_rng(1)
    num_video = int(np.prod(grid)) // 4
    words = [int(word) for word in draw.integers(10, 8000, prompt_tokens - num_video)]
    ids = (*words[:8], *[_VIDEO_TOKEN] * num_video, *words[8:])
    responses = tuple(
        Response(token_ids=TokenIds(draw.integers(10, 8000, response_tokens)))
        for _ in range(group_size)
    )
    prompt = Prompt(token_ids=ids, clip_key="clip", fingerprint="")
    return Row(prompt=prompt, video="clip.mp4", responses=responses)


def build_vlm(shape: str, dtype: torch.dtype) -> Any:
    """A Qwen2.5-VL model of a size, untrained."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    sizes = _SHAPES[shape]
    config = Qwen2_5_VLConfig(
        text_config={**sizes["text_config"], **ends},
        vision_config=sizes["vision_config"],
        image_token_id=4,
        video_token_id=_VIDEO_TOKEN,
        vision_start_token_id=6,
        vision_end_token_id=7,
        tie_word_embeddings=True,
    )
    return Qwen2_5_VLForConditionalGeneration(config).to(dtype)


if __name__ == "__main__":
    sys.exit(main())
