"""Tokens/s, MFU and memory of a training step of a 3B shape, forward and backward.

Qwen2.5-VL-3B's sizes with random weights in bfloat16, made on the card; a group of 8 responses of
512 tokens behind a prompt of 4,096 (CPU: a toy). Shared: the group as one row of 8,192 tokens.
Repeated: the prompt once per response, in micro-batches of one response. Both count the tokens of
the repeated layout as done, so that their rates compare; MFU counts each one's own FLOPs, and
nothing that checkpointing computes again. The tower is frozen and ran before, as in every epoch
that finds its clips in the embedding cache; its own time is a row.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from learner.model.policy import Policy
from learner.shared_prefix.batch import TrainBatch
from learner.shared_prefix.clip_features import ClipFeatures
from learner.shared_prefix.rows import Row, one_row_per_response
from tests.benchmarks.figures import Figure
from tests.benchmarks.flops import Sizes, Work, flops
from tests.benchmarks.shared_prefix import batch_of, build_vlm, make_row
from tests.gpu.rows import NotRun
from tests.gpu.setting import Setting

_PEAK_TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H20": 148.0,
    "B200": 2250.0,
    "A100": 312.0,
    "L40S": 362.0,
    "RTX 4090": 165.0,
}
"""Dense bfloat16, by the makers' data sheets; the first name that the card's contains."""
_GRID, _GRID_IN_SMALL = (16, 32, 32), (2, 16, 16)  # 4,096 and 128 video tokens
_REPEATS = 3


def figures(setting: Setting) -> Iterator[Figure | NotRun]:
    """Both layouts, without and with checkpointing."""
    grid = _GRID_IN_SMALL if setting.small else _GRID
    prompt, response, group = (256, 16, 4) if setting.small else (4096 + 64, 512, 8)
    torch.manual_seed(0)
    with torch.device(setting.device):
        vlm = build_vlm("cpu" if setting.small else "3b", torch.bfloat16)
    policy = Policy(vlm)
    row = make_row(prompt, response, group, grid)
    whole = batch_of([row], grid)
    seen, look_s = _looked_at(policy, whole, setting)
    yield Figure("throughput/tower", look_s * 1e3, "ms/clip")

    def batch(rows: Sequence[Row]) -> TrainBatch:
        return replace(batch_of(rows, grid), seen=seen, pixel_values=torch.empty(0, 0))

    layouts = {
        "shared": [batch([row])],
        "repeated": [batch([one]) for one in one_row_per_response(row)],
    }
    done = sum(batch.layout.num_tokens for batch in layouts["repeated"])
    for checkpointing in (False, True):
        if checkpointing:
            policy.train()
            vlm.gradient_checkpointing_enable({"use_reentrant": False})
        rates = {}
        for layout, batches in layouts.items():
            name = f"throughput/{layout}" + ("/checkpointing" if checkpointing else "")
            step = _step(policy, [batch.to(setting.device) for batch in batches])
            try:
                seconds = _fastest(step, setting)
            except torch.OutOfMemoryError as error:
                yield NotRun(name, f"the card has too little memory: {error}".split(". ")[0])
                policy.zero_grad(set_to_none=True)
                continue
            rates[layout] = done / seconds
            yield from _rows(name, rates[layout], _mfu(policy, batches, seconds, setting))
        if len(rates) == 2:
            name = "throughput/shared_to_repeated" + ("/checkpointing" if checkpointing else "")
            ratio = rates["shared"] / rates["repeated"]
            yield Figure(name, ratio, "x", None if setting.small else 1.0, "above")


def _looked_at(policy: Policy, batch: TrainBatch, setting: Setting) -> tuple[ClipFeatures, float]:
    """What the frozen tower makes of the clip, and how long that takes once it is warm."""
    policy.tower.requires_grad_(False)
    pixels, grid = batch.pixel_values.to(setting.device), batch.grid_thw.to(setting.device)
    with torch.no_grad():
        seen = policy.look(pixels, grid)
        return seen, setting.seconds(lambda: policy.look(pixels, grid))


def _rows(name: str, rate: float, mfu: float | None) -> Iterator[Figure | NotRun]:
    yield Figure(f"{name}/tokens_per_s", rate, "tokens/s")
    if torch.cuda.is_available():
        yield Figure(f"{name}/peak", torch.cuda.max_memory_allocated() / 2**30, "GiB")
    if mfu is not None:
        yield Figure(f"{name}/mfu", mfu, "")
    elif torch.cuda.is_available():
        yield NotRun(f"{name}/mfu", "the peak of this card is not known: give --peak-tflops")


def _step(policy: Policy, batches: Sequence[TrainBatch]) -> Callable[[], None]:
    def step() -> None:
        policy.zero_grad(set_to_none=True)
        for batch in batches:
            (-policy(batch).logp.sum() / len(batches)).backward()

    return step


def _fastest(step: Callable[[], None], setting: Setting) -> float:
    """Seconds of a step once everything is compiled."""
    step()
    if not setting.small:
        torch.cuda.reset_peak_memory_stats()
    return min(setting.seconds(step) for _ in range(1 if setting.small else _REPEATS))


def _mfu(
    policy: Policy, batches: Sequence[TrainBatch], seconds: float, setting: Setting
) -> float | None:
    peak = setting.peak_tflops or _peak_of_card(setting)
    if peak is None:
        return None
    sizes = Sizes.of(policy.vlm)
    counts = (flops(sizes, Work.of(batch.layout, batch.grid_thw.tolist())) for batch in batches)
    needed = sum(count.total - count.vision for count in counts)
    return needed / seconds / peak / 1e12


def _peak_of_card(setting: Setting) -> float | None:
    if setting.small:
        return None
    card = torch.cuda.get_device_name(0)
    return next((peak for name, peak in _PEAK_TFLOPS.items() if name in card), None)
