"""Settings of rollout: sampling of traces, and the engine that writes them."""

from typing import Literal, Self

from pydantic import Field, model_validator

from wire.config import Config


class RolloutConfig(Config):
    """Rollout workers: their number, engine and sampling."""

    num_workers: int = Field(default=1, ge=1)
    """Rollout workers at the start, each with an engine of its own."""
    min_workers: int | None = Field(default=None, ge=1)
    """Workers in service that a run needs to go on; none: 1. With fewer it waits
    ``start_timeout_s`` for others, and then ends."""
    max_workers: int | None = Field(default=None, ge=1)
    """Workers at most; none: ``num_workers``. Up to so many, a run uses what room the cluster has,
    also nodes that join later."""
    num_cpus: float = Field(default=0.5, gt=0)
    """CPUs that each worker reserves in Ray."""
    num_gpus: float = Field(default=0.0, ge=0)
    """GPUs that each worker reserves in Ray; 0 runs vLLM's CPU build."""
    num_threads: int = Field(default=2, ge=1)
    """Compute threads of an engine on CPU."""
    max_concurrency: int = Field(default=32, ge=1)
    """Groups that one worker answers at the same time; more wait in the driver."""
    group_size: int = Field(default=8, ge=2)
    """Traces written per clip; GRPO compares them with each other."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature of training rollouts. The objective divides logits by it, too: ratios,
    KL and entropy are of the distribution that wrote the traces. Traces that are measured keep
    their logprobs at temperature 1; above or below 1 here, that takes one more pass over each."""
    seeded_sampling: bool = False
    """Seed every trace that is written for training by its place, so that the same weights write
    the same trace again (as a deterministic run always does). vLLM samples such requests one by one
    on a GPU. Traces that are measured (validation, evaluation, calibration) are always seeded."""
    max_response_length: int = Field(default=2048, ge=1)
    """Tokens per trace at most; a longer one is cut and counted as truncated."""
    max_prompt_length: int = Field(default=26_000, ge=1)
    """A longer prompt is refused: cutting it would cut video tokens."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of the engine; float32 on CPU for exact parity with the learner."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs per engine."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of a GPU's memory for the engine."""
    kv_cache_gb: float = Field(default=1.0, gt=0)
    """Memory for keys and values on CPU."""
    block_size: int | None = Field(default=None, ge=1)
    """Tokens per cache block; none: vLLM's default (128 on CPU). Only whole blocks of a prompt are
    found in the prefix cache."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Sequences decoded together at most."""
    max_batched_tokens: int = Field(default=8192, ge=1)
    """Prompt tokens computed together at most."""
    share_embeddings: bool = False
    """Run a frozen vision tower once per clip in the whole system: what an engine's tower made of a
    clip goes into the learner's embedding cache, and engines take it from there in place of the
    pixels. Logprobs then agree to rounding (1e-5 in float32), not to the bit."""
    in_flight: Literal["wait", "keep", "restart"] = "keep"
    """What an update does with traces that are being written (``grpo.max_staleness`` above 0): it
    waits until they are written; keeps them, so that they go on with the new weights, each token
    with its version, and count as written by the old ones; or has them written anew by the new
    weights. An adapter of LoRA leaves them the adapter that they began with, whatever this says."""
    sleep: bool = False
    """Put engines to sleep while GRPO updates the policy: the memory of an engine is then free for
    the learner rank that shares its GPU. It wakes for the new weights, and takes memory for keys
    and values when they are loaded. Needs colocated GPUs and ``max_staleness = 0``; does nothing on
    a CPU."""
    enforce_eager: bool = True
    """No graph capture; right for tiny models and on CPU."""
    start_timeout_s: float = Field(default=600.0, gt=0)
    """An engine that is not up by then has failed."""
    request_timeout_s: float = Field(default=600.0, gt=0)
    """A group that is not written by then is a generation failure."""
    update_timeout_s: float = Field(default=120.0, gt=0)
    """A step of a weight update (one chunk, finish) that takes longer has failed."""
    pause_timeout_s: float = Field(default=30.0, gt=0)
    """An engine that has not paused for new weights by then hangs: it is tried once more, and then
    left out. With ``in_flight = "wait"`` it has ``request_timeout_s`` beside."""

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        lowest, highest = self.min_workers or 1, self.max_workers or self.num_workers
        if not lowest <= self.num_workers <= highest:
            raise ValueError(
                f"rollout.num_workers={self.num_workers} is not between min_workers={lowest} and "
                f"max_workers={highest}; change one of them"
            )
        return self

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change while a run goes on."""
        return self.max_workers not in (None, self.num_workers) or self.min_workers not in (
            None,
            self.num_workers,
        )

    @property
    def tempered(self) -> bool:
        """Whether the engine's logprobs are of the distribution at the sampling temperature; else
        they are at temperature 1, whatever a request's."""
        return self.temperature != 1

    @property
    def records_digests(self) -> bool:
        """Whether weights are compared by digests after each update: where an engine computes in
        float32, its logprobs tell wrong weights apart."""
        return self.dtype != "float32"

    @property
    def begin_timeout_s(self) -> float:
        """Seconds in which an engine has to be ready for new weights."""
        pause_s = self.update_timeout_s if self.sleep else self.pause_timeout_s
        return pause_s + (self.request_timeout_s if self.in_flight == "wait" else 0)

    @property
    def max_model_len(self) -> int:
        """Prompt and response together, and one token that the parity probe draws after them."""
        return self.max_prompt_length + self.max_response_length + 1
