"""Memory preflight: whether a stage's largest micro-batch fits, found before its first update.

    LargestBatch -> forward + backward, gradient zero -> peak, or a UserError: what to lower

On a GPU the batch is run, beside as much memory as the optimiser will take. On CPU the kernel would
kill the process instead of refusing memory: there two small batches are measured first, and the
largest is run only if what follows from them fits; it need not run where that is far below what is
left. Neither weights nor optimiser nor random numbers change.
"""

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from learner.config import LearnerConfig
from learner.ranks.collectives import gather
from learner.ranks.free_memory import PeakMemory, free_bytes, free_gpu_bytes
from learner.shared_prefix.largest_batch import LargestBatch
from wire.errors import UserError

_FIRST, _SECOND = 1 / 8, 1 / 4
_SAFE_FACTOR = 4.0
"""If free memory is at least this many times the estimate, skip the trial step."""
_GB = 1e9


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Memory that one rank still needs, and memory that is free for it, bytes."""

    host: str
    bytes: int
    free: int


def estimate(first: int, second: int) -> int:
    """Memory at full size, bytes, estimated from that at 1/8 and 1/4 of it.

    ``b x + c x^2`` through both: what grows with the tokens, and with their square. Between the
    straight line and the parabola through the second alone, which bounds a small first's noise.
    """
    fitted = 28 * second - 48 * first
    return max(4 * second, min(16 * second, fitted))


class Preflight:
    """The preflight of one rank. All ranks call :meth:`run` together."""

    def __init__(
        self,
        config: LearnerConfig,
        trial_step: Callable[[LargestBatch], None],
        optimizer_bytes: int,
        free: Callable[[], int],
        gather: Callable[[MemoryNeed], list[MemoryNeed]],
    ) -> None:
        """``trial_step``: forward and backward on such a batch. ``optimizer_bytes``: bytes that the
        first update allocates beside it. ``free``: bytes free now. ``gather``: collects the needs
        of all ranks."""
        self._config, self._trial_step = config, trial_step
        self._optimizer_bytes, self._free, self._gather = optimizer_bytes, free, gather

    def run(self, largest: LargestBatch) -> float:
        """The peak memory in GB: of tensors on a GPU, else of all pages of this process (estimated,
        where that is far below what is left).

        Raises UserError with what is needed, what is there, and the settings to lower, in order.
        """
        rng = torch.get_rng_state()
        try:
            return self._on_gpu(largest) if self._config.num_gpus else self._on_cpu(largest)
        finally:
            torch.set_rng_state(rng)

    def _on_gpu(self, largest: LargestBatch) -> float:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()]):
            free = self._free()
            with self._naming_settings(largest, free):
                reserved = torch.empty(self._optimizer_bytes, dtype=torch.uint8, device="cuda")
                with PeakMemory() as memory:
                    self._trial_step(largest)
                del reserved
        torch.cuda.empty_cache()
        return memory.peak / _GB

    def _on_cpu(self, largest: LargestBatch) -> float:
        with self._naming_settings(largest, self._free()):
            self._trial_step(largest.scaled(_FIRST))  # gradients and kernels take their memory once
            first, second = (self._measure(largest.scaled(x)) for x in (_FIRST, _SECOND))
            wanted = estimate(first.rise, second.rise)
            free = self._free()
            needs = self._gather(MemoryNeed(platform.node(), wanted + self._optimizer_bytes, free))
            if fault := _fault(needs):
                raise UserError(self._message(largest, *fault))
            if any(need.bytes * _SAFE_FACTOR * len(needs) > need.free for need in needs):
                return self._measure(largest).peak / _GB
        return (second.before + wanted) / _GB

    def _measure(self, batch: LargestBatch) -> PeakMemory:
        with PeakMemory() as memory:
            self._trial_step(batch)
        return memory

    @contextmanager
    def _naming_settings(self, largest: LargestBatch, free: int) -> Iterator[None]:
        try:
            yield
        except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not _ran_out(error):
                raise
            raise UserError(self._message(largest, None, free)) from error

    def _message(self, largest: LargestBatch, needed: int | None, free: int) -> str:
        amount = f"about {needed / _GB:.3g} GB" if needed else "more"
        return (
            f"the largest batch of this stage ({largest.num_tokens} tokens: {largest.num_rows} "
            f"prompt(s) of {largest.prompt_length}, {len(largest.responses)} response(s) of "
            f"{largest.response_length} each) needs {amount}, and {free / _GB:.3g} GB are left "
            f"for the learner on {platform.node()}; lower or set, in this order: "
            + "; ".join(settings_to_lower(self._config, largest))
        )


def preflight_of(
    config: LearnerConfig,
    trial_step: Callable[[LargestBatch], None],
    optimizer_bytes: Callable[[], int],
) -> Preflight:
    """The preflight of this rank, with what its device has free. ``optimizer_bytes``: bytes that
    the first update allocates; none of them on a GPU that offloads the optimiser."""
    gpu = config.num_gpus > 0
    return Preflight(
        config,
        trial_step,
        0 if gpu and config.offload != "none" else optimizer_bytes(),
        free=free_gpu_bytes if gpu else free_bytes,
        gather=gather,
    )


def settings_to_lower(config: LearnerConfig, largest: LargestBatch) -> list[str]:
    """Settings that take less memory when changed, the ones that cost least first."""
    whole, gpu = largest.prompt_length + largest.response_length, config.num_gpus > 0
    more_ranks = "" if config.num_ranks > 1 else "; it divides among more learner.num_ranks"
    advice = [
        (largest.num_tokens > whole, f"learner.max_tokens_per_batch (now {largest.max_tokens})"),
        (not config.gradient_checkpointing, "learner.gradient_checkpointing = true"),
        (config.zero_stage < 3, f"learner.zero_stage = 3 (now {config.zero_stage}{more_ranks})"),
        (gpu and config.offload == "none", "learner.offload = 'optimizer', with ZeRO"),
        (True, f"rollout.max_response_length (now {largest.response_length})"),
        (largest.group_size > 1, f"rollout.group_size (now {largest.group_size})"),
        (True, f"video.max_frames (now {largest.num_frames}) and video.max_pixels"),
        (config.lora is None, "learner.lora = {}, which trains far fewer weights"),
        (gpu and config.dtype == "float32", "learner.dtype = 'bfloat16'"),
    ]
    return [setting for applies, setting in advice if applies]


def _fault(needs: list[MemoryNeed]) -> tuple[int, int] | None:
    """Needed and free bytes of the first node where all its ranks together do not fit."""
    for host in dict.fromkeys(need.host for need in needs):
        ranks = [need for need in needs if need.host == host]
        needed, free = sum(need.bytes for need in ranks), min(need.free for need in ranks)
        if needed > free:
            return needed, free
    return None


def _ran_out(error: BaseException) -> bool:
    """Whether an error means that memory ran out; on CPU torch says so by words alone."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return "can't allocate memory" in text or "bad_alloc" in text or "out of memory" in text
