"""The engine on vLLM: traces out, weights in.

prompt ids + processed clip -> AsyncLLM (its own process) -> token ids + logprobs
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rollout.config import RolloutConfig
from rollout.engine import Generation, Sampling, WeightDigests
from rollout.engine_environment import set_engine_environment
from rollout.lora import Adapter, AdapterSlots, add_whole, engine_arguments, lora_request
from rollout.vllm_answer import answer_of
from rollout.vllm_request import vllm_request
from video.positions import PositionRule
from video.processor import ProcessedClip
from wire.errors import DeadlineExceeded, GenerationError, WeightUpdateError
from wire.types import Prompt

_MANY_LOGITS = 1 << 24  # 64 MB of float32
_LOOK_EVERY_S = 0.5


class VllmEngine:
    """vLLM's ``AsyncLLM``. Make it with :meth:`start`, inside a running event loop."""

    def __init__(
        self,
        llm: Any,
        config: RolloutConfig,
        rule: PositionRule,
        blocked_tokens: Sequence[int],
        *,
        deterministic: bool = False,
        keeps_weights: bool = False,
    ) -> None:
        """``keeps_weights``: they are needed after a sleep, because updates do not bring them."""
        self._llm = llm
        self._config = config
        self._sleep_level = 1 if keeps_weights else 2
        self._asleep: set[str] = set()
        """What of vLLM's memory is given up."""
        self._running = 0
        self._alone = asyncio.Lock() if deterministic else None
        self._rule = rule
        self._bias = dict.fromkeys(blocked_tokens, -100.0)
        self._requests = 0

    @classmethod
    async def start(
        cls,
        model_dir: Path,
        config: RolloutConfig,
        blocked_tokens: Sequence[int],
        backend: str,
        adapters: AdapterSlots | None = None,
        *,
        seed: int = 0,
        deterministic: bool = False,
    ) -> "VllmEngine":
        """Load the model in a process of its own; ``backend`` names the weight-transfer backend.

        ``seed``: of the engine's random state, from which requests without a seed are drawn.
        ``deterministic``: an answer depends on nothing but its request (see :meth:`_answers`).
        Raises DeadlineExceeded after ``config.start_timeout_s``.
        """
        set_engine_environment(config)
        arguments = _vllm_arguments(model_dir, config, backend, adapters, seed)
        llm = await _start_llm(arguments, config.start_timeout_s)
        rule = PositionRule.load(model_dir)
        return cls(
            *(llm, config, rule, blocked_tokens),
            deterministic=deterministic,
            keeps_weights=adapters is not None,
        )

    async def generate(
        self,
        prompt: Prompt,
        clip: ProcessedClip,
        sampling: Sampling,
        adapter: Adapter | None = None,
    ) -> Generation:
        """Draw ``sampling.n`` answers. Raises GenerationError, DeadlineExceeded."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            n=sampling.n,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            logprobs=0,
            logit_bias=self._bias or None,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output = await self._run(vllm_request(prompt.token_ids, clip, self._rule), params, adapter)
        if len(output.outputs) != sampling.n:
            raise GenerationError(
                f"the engine returned {len(output.outputs)} answers, {sampling.n} were asked for"
            )
        answers = [answer_of(completion) for completion in output.outputs]
        if self._config.tempered and not sampling.for_training and sampling.temperature != 1:
            for index, answer in enumerate(answers):
                logprobs = await self.logprobs(prompt, clip, answer.token_ids, adapter)
                answers[index] = replace(answer, logprobs=tuple(logprobs))
        num_cached = output.num_cached_tokens or 0
        return Generation(answers=tuple(answers), num_cached_tokens=num_cached)

    async def logprobs(
        self,
        prompt: Prompt,
        clip: ProcessedClip,
        response: Sequence[int],
        adapter: Adapter | None = None,
    ) -> list[float]:
        """Logprob (nats) of each token of a given response under the engine's weights.

        vLLM makes logits of every token that it computes for such a request, and takes four times
        as much memory: 10 GB for a prompt of 4,096 tokens and Qwen's vocabulary. So a long prompt
        is put into the prefix cache first (which a deterministic run empties), under a salt: what
        others left there may hold the response.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        final, salt = RequestOutputKind.FINAL_ONLY, f"logprobs-{self._requests}"
        params = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, output_kind=final)
        if len(prompt.token_ids) * self._llm.model_config.get_vocab_size() > _MANY_LOGITS:
            # without its last token, whose logits are those of the first response token
            request = vllm_request(prompt.token_ids[:-1], clip, self._rule, salt)
            await self._run(request, params, adapter)
        params.prompt_logprobs, params.skip_reading_prefix_cache = 0, False
        request = vllm_request((*prompt.token_ids, *response), clip, self._rule, salt)
        output = await self._run(request, params, adapter)
        rows = output.prompt_logprobs[len(prompt.token_ids) :]
        return [float(row[token].logprob) for row, token in zip(rows, response, strict=True)]

    async def sleep(self) -> None:
        """Give up the GPU's memory, until an update or an adapter takes it again. Weights that
        will be sent anew are given up too (vLLM's level 2), others wait in the node's memory
        (level 1). Nothing on a CPU."""
        if self._running:
            raise WeightUpdateError(f"the engine is to sleep, but {self._running} requests run")
        if self._config.sleep and self._config.num_gpus:
            async with self._updating("go to sleep"):
                self._asleep = {"weights", "kv_cache"}
                await self._llm.sleep(level=self._sleep_level, mode="wait")

    async def begin_update(self) -> None:
        """Stop scheduling, forget everything computed with the old weights (running requests wait,
        to be computed anew), and open vLLM's update.

        An update that was left open is abandoned. Weights are loaded in place, so from here on the
        engine answers, and computes, nothing until an update is finished whole.
        """
        async with self._updating("begin a weight update"):
            await self._wake("weights")
            record = (self._config.records_digests,)
            begin = self._llm.collective_rpc("begin_weight_update", args=record)
            await asyncio.gather(self._pause(), begin)

    async def update_weights(self, update: dict[str, Any]) -> None:
        """Load one chunk of weights, in the form of the transfer backend."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        async with self._updating("load weights"):
            await self._llm.update_weights(WeightTransferUpdateRequest(update_info=update))

    async def init_transfer(self, init_info: dict[str, Any]) -> None:
        """Run the rendezvous of the transfer backend (NCCL's process group, say)."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        async with self._updating("meet the learner"):
            await self._llm.init_weight_transfer_engine(
                WeightTransferInitRequest(init_info=init_info)
            )

    async def finish_update(self) -> None:
        """Close the weight update and go on."""
        async with self._updating("finish a weight update"):
            await self._llm.finish_weight_update()
            await self._wake("kv_cache")  # only now: until here the learner may need the room
            await self._llm.resume_generation()

    async def weight_digests(self) -> list[WeightDigests]:
        """Digests of the weights after an update, of each of the engine's GPUs."""
        async with self._updating("compute digests of its weights"):
            workers = await self._llm.collective_rpc("weight_digests")
        return [WeightDigests(loaded=loaded, resident=held) for loaded, held in workers]

    async def load_adapter(self, adapter: Adapter) -> None:
        """Load an adapter beside those it holds; no request waits. Raises WeightUpdateError if it
        does not fit, or if vLLM would leave a part of it out; then it is gone again."""
        async with self._updating(f"load the adapter {adapter.name}"):
            await self._wake("weights", "kv_cache")
            await add_whole(self._llm, adapter)

    async def drop_adapter(self, adapter: Adapter) -> None:
        """Drop an adapter that no request uses."""
        async with self._updating(f"drop the adapter {adapter.name}"):
            await self._llm.remove_lora(adapter.number)

    async def _wake(self, *parts: str) -> None:
        """Take memory again that was given up; vLLM goes on once it has all."""
        for part in parts:
            if part in self._asleep:
                await self._llm.wake_up(tags=[part])
                self._asleep.remove(part)

    @property
    def is_alive(self) -> bool:
        """False once the engine's process has ended."""
        return not self._llm.errored

    def stop(self) -> None:
        """End the engine's process."""
        self._llm.shutdown()

    async def _pause(self) -> None:
        """Compute nothing more, until resumed; prefix, media and encoder caches are empty then.

        vLLM's own ``pause_generation`` does the same and then sleeps 20 ms, a quarter of the time
        in which a small model gets its weights.
        """
        await self._llm.engine_core.pause_scheduler_async(mode="keep", clear_cache=True)

    @contextlib.asynccontextmanager
    async def _updating(self, what: str) -> AsyncIterator[None]:
        """Context of a step of a weight update: with a deadline, and errors of ours.

        vLLM leaves a call that waits for a process that is gone waiting; here it ends at once.
        """
        limit_s, setting = self._config.update_timeout_s, "rollout.update_timeout_s"
        async with _deadline(limit_s, what, setting) as limit:
            watch = asyncio.create_task(self._end_with_engine(limit))
            try:
                yield
            except asyncio.CancelledError:
                if self.is_alive or not limit.expired():
                    raise
                raise WeightUpdateError(f"the engine's process ended, asked to {what}") from None
            except Exception as error:  # vLLM hands a worker's error on as a bare Exception
                raise WeightUpdateError(f"the engine could not {what}: {error}") from error
            finally:
                watch.cancel()

    async def _end_with_engine(self, limit: asyncio.Timeout) -> None:
        while self.is_alive:
            await asyncio.sleep(_LOOK_EVERY_S)
        limit.reschedule(asyncio.get_running_loop().time())

    async def _run(self, request: Any, params: Any, adapter: Adapter | None) -> Any:
        from vllm.exceptions import VLLMError

        if self._asleep:
            raise GenerationError("the engine sleeps until it gets new weights")
        self._requests += 1
        self._running += 1
        request_id = f"{os.getpid()}-{self._requests}"
        limit_s, last = self._config.request_timeout_s, None
        try:
            async with _deadline(limit_s, "answer", "rollout.request_timeout_s"):
                lora = adapter and lora_request(adapter)
                async for output in self._answers(request, params, request_id, lora):
                    last = output
        except VLLMError as error:
            raise GenerationError(f"the engine refused or lost the request: {error}") from error
        finally:
            self._running -= 1
        if last is None:
            raise GenerationError("the engine ended the request without an answer")
        return last

    def _answers(self, request: Any, params: Any, request_id: str, lora: Any) -> AsyncIterator[Any]:
        """vLLM's outputs for a request.

        Their last bits depend on what is computed beside it and on what a cache spares. In a
        deterministic run a request has the engine to itself, its answers enter the same first
        step, and it finds nothing in the caches: seen to be needed and enough on vLLM 0.32
        (docs/resume.md has what it costs).
        """
        if self._alone is None:
            outputs: AsyncIterator[Any] = self._llm.generate(
                request, params, request_id, lora_request=lora
            )
            return outputs
        return self._answers_alone(self._alone, request, params, request_id, lora)

    async def _answers_alone(
        self, alone: asyncio.Lock, request: Any, params: Any, request_id: str, lora: Any
    ) -> AsyncIterator[Any]:
        async with alone:
            await self._pause()
            try:
                queue = await self._llm.add_request(request_id, request, params, lora_request=lora)
            finally:
                await self._llm.resume_generation()
            try:
                finished = False
                while not finished:
                    output = await queue.get()
                    finished = output.finished
                    yield output
            except asyncio.CancelledError:
                await self._llm.abort(queue.request_id, internal=True)
                raise
            finally:
                queue.close()


def _vllm_arguments(
    model_dir: Path,
    config: RolloutConfig,
    backend: str,
    adapters: AdapterSlots | None,
    seed: int = 0,
) -> Any:
    """Arguments of vLLM's engine for a model and the recipe's settings."""
    from vllm import AsyncEngineArgs
    from vllm.config import WeightTransferConfig

    import rollout.vllm_extension  # noqa: F401  knows the backend, for the check of the config

    return AsyncEngineArgs(
        model=str(model_dir),
        seed=seed,
        dtype=config.dtype,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        tensor_parallel_size=config.tensor_parallel_size,
        gpu_memory_utilization=config.gpu_memory_utilization,
        enforce_eager=config.enforce_eager,
        block_size=config.block_size,
        enable_prefix_caching=True,
        enable_sleep_mode=config.sleep and config.num_gpus > 0,
        max_num_batched_tokens=max(config.max_model_len, config.max_batched_tokens),
        limit_mm_per_prompt={"video": 1, "image": 0},
        mm_processor_cache_gb=0,  # processed clips come from our own cache
        mm_device_do_normalize=False,  # ours are normalised; twice shifts logprobs by 0.1
        logprobs_mode=logprobs_mode(config),
        weight_transfer_config=WeightTransferConfig(backend=backend),
        worker_extension_cls="rollout.vllm_extension.Extension",
        disable_log_stats=True,
        distributed_executor_backend=_executor(config),
        **engine_arguments(adapters),
    )


def logprobs_mode(config: RolloutConfig) -> str:
    """vLLM's mode: raw logprobs are at temperature 1 whatever a request's, processed ones are of
    the distribution that a token is drawn from."""
    return "processed_logprobs" if config.tempered else "raw_logprobs"


async def _start_llm(arguments: Any, timeout_s: float) -> Any:
    """vLLM's client, once the engine's process has loaded the model. Raises DeadlineExceeded."""
    from vllm.v1.engine.async_llm import AsyncLLM

    async with _deadline(timeout_s, "start", "rollout.start_timeout_s"):
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, AsyncLLM.from_engine_args, arguments)


def _executor(config: RolloutConfig) -> str | None:
    """Executor of the engine: how it runs its workers, one per GPU.

    Several are processes of this node, on the GPUs that Ray has given to the actor: inside a
    placement group vLLM would choose Ray's actors, and refuse a bundle of several GPUs. One is
    vLLM's choice, but on a CPU: there it starts its only worker as one more process, and both sides
    poll for a second after each message. In one process an engine is up 20 s sooner and takes 1 GB
    less (demo model, 2 cores); what it generates is the same.
    """
    if config.tensor_parallel_size > 1:
        return "mp"
    if config.num_gpus == 0:
        return "vllm.v1.executor.uniproc_executor.UniProcExecutor"
    return None


@contextlib.asynccontextmanager
async def _deadline(limit_s: float, what: str, setting: str) -> AsyncIterator[asyncio.Timeout]:
    try:
        async with asyncio.timeout(limit_s) as limit:
            yield limit
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"the engine did not {what} within {limit_s:.0f} s; see its log, or raise {setting}"
        ) from error
