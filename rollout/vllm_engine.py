"""The engine on vLLM: traces out, weights in.

prompt ids + processed clip -> AsyncLLM (its own process) -> token ids + logprobs
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rollout.config import RolloutConfig
from rollout.engine import Generation, Sampling, WeightDigests
from rollout.engine_environment import set_engine_environment
from rollout.label_codes import Code, code_logprobs, code_questions
from rollout.lora import Adapter, AdapterSlots, add_whole, lora_request
from rollout.shared_embeddings import SharedEmbeddings
from rollout.vllm_calls.answer import answer_of
from rollout.vllm_calls.arguments import vllm_arguments
from rollout.vllm_calls.deadline import deadline
from rollout.vllm_calls.groups import FIRST, RequestGroups
from rollout.vllm_calls.label_questions import question_answers, question_params
from rollout.vllm_calls.probe import probe
from rollout.vllm_calls.request import tensor_of, vllm_requests
from video.positions import PositionRule
from video.processor import ProcessedClip
from wire.errors import DeadlineExceeded, GenerationError, WeightUpdateError
from wire.types import PolicyVersion, Prompt

log = logging.getLogger(__name__)

_MANY_LOGITS = 1 << 24  # 64 MB of float32
_LOOK_EVERY_S = 0.5
_EMBEDDINGS_S = 60.0


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
        self._groups = RequestGroups(llm, alone=deterministic, in_flight=config.in_flight)
        self._rule = rule
        self._bias = dict.fromkeys(blocked_tokens, -100.0)
        self._probes = itertools.count()
        # a token would be computed beside others, or be in the way of a sleep
        self._probe_writes = not (deterministic or config.sleep)
        self.embeddings: SharedEmbeddings | None = None
        """Embeddings of clips that the learner makes or takes, too; None: the tower sees all."""

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
        ``deterministic``: an answer depends on nothing but its request
        (rollout/vllm_calls/groups.py).
        Raises DeadlineExceeded after ``config.start_timeout_s``.
        """
        set_engine_environment(config)
        arguments = vllm_arguments(model_dir, config, backend, adapters, seed)
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

        params = [
            SamplingParams(
                temperature=sampling.temperature,
                max_tokens=sampling.max_tokens,
                seed=None if sampling.seed is None else sampling.seed + number,
                logprobs=0,
                logit_bias=self._bias or None,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            for number in range(sampling.n)
        ]
        outputs = await self._run_shared(prompt, clip, params, adapter)
        answers = [answer_of(output.outputs[0]) for output in outputs]
        if self._config.tempered and not sampling.for_training and sampling.temperature != 1:
            for index, answer in enumerate(answers):
                logprobs = await self.logprobs(prompt, clip, answer.token_ids, adapter)
                answers[index] = replace(answer, logprobs=tuple(logprobs))
        num_cached = max(output.num_cached_tokens or 0 for output in outputs)
        return Generation(answers=tuple(answers), num_cached_tokens=num_cached)

    async def label_logprobs(
        self,
        prompt: Prompt,
        clip: ProcessedClip,
        codes: Sequence[Code],
        adapter: Adapter | None = None,
    ) -> list[float]:
        """Logprob (nats, at temperature 1) of each code after a prompt, under the whole vocabulary.

        One request where each code is a token, else one for each beginning that codes share.
        """
        questions = code_questions(codes)
        begun = [question.begun for question in questions]
        params = question_params(questions)
        outputs = await self._run_shared(prompt, clip, params, adapter, begun)
        return code_logprobs(codes, question_answers(questions, outputs))

    async def _run_shared(
        self,
        prompt: Prompt,
        clip: ProcessedClip,
        params: Sequence[Any],
        adapter: Adapter | None,
        continued: Sequence[Sequence[int]] | None = None,
    ) -> list[Any]:
        """Run a group with the embeddings of its clip, if they are shared and there; else keep
        those that the tower makes. A narrative needs no tower."""
        shared = self.embeddings
        if shared and not self._needs_tower(prompt, clip):
            shared = None
        seen = await asyncio.to_thread(shared.find, prompt) if shared else None
        outputs = await self._run(
            *(prompt.token_ids, clip, params, adapter), embeddings=seen, continued=continued
        )
        if shared and seen is None:
            keeping = self._keep_embeddings(shared, prompt, clip)
            for error in await asyncio.gather(keeping, return_exceptions=True):
                if error is not None:  # the answers are good
                    log.warning("the embeddings of %s are not kept: %s", prompt.clip_key, error)
        return outputs

    def _needs_tower(self, prompt: Prompt, clip: ProcessedClip) -> bool:
        return clip.embeddings is None and bool(self._rule.is_video(prompt.token_ids).any())

    async def _keep_embeddings(
        self, shared: SharedEmbeddings, prompt: Prompt, clip: ProcessedClip
    ) -> None:
        """Keep what the tower made of a clip, if vLLM still has it."""
        async with deadline(_EMBEDDINGS_S, "hand out a clip's embeddings", "nothing"):
            call = self._llm.collective_rpc("clip_embeddings", args=(clip.fingerprint,))
            (made, *_) = await call
        if made is not None:
            await asyncio.to_thread(shared.keep, prompt, clip, tensor_of(made))

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

        final, salt = RequestOutputKind.FINAL_ONLY, f"logprobs-{next(self._probes)}"
        params = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, output_kind=final)
        if len(prompt.token_ids) * self._llm.model_config.get_vocab_size() > _MANY_LOGITS:
            # without its last token, whose logits are those of the first response token
            await self._run(prompt.token_ids[:-1], clip, [params], adapter, salt, priority=FIRST)
        params.prompt_logprobs, params.skip_reading_prefix_cache = 0, False
        both = (*prompt.token_ids, *response)
        (output,) = await self._run(both, clip, [params], adapter, salt, priority=FIRST)
        rows = output.prompt_logprobs[len(prompt.token_ids) :]
        return [float(row[token].logprob) for row, token in zip(rows, response, strict=True)]

    async def sleep(self) -> None:
        """Give up the GPU's memory, until an update or an adapter takes it again. Weights that
        will be sent anew are given up too (vLLM's level 2), others wait in the node's memory
        (level 1). Nothing on a CPU."""
        if running := self._groups.running:
            raise WeightUpdateError(
                f"the engine is to sleep, but {running} groups are being written"
            )
        if self._config.sleep and self._config.num_gpus:
            async with self._updating("go to sleep"):
                self._asleep = {"weights", "kv_cache"}
                await self._llm.sleep(level=self._sleep_level, mode="wait")

    async def begin_update(self) -> None:
        """Stop scheduling, forget everything computed with the old weights (requests that run are
        treated as ``config.in_flight`` says), and open vLLM's update; one left open is abandoned.

        Weights are loaded in place, so from here on the engine answers, and computes, nothing until
        an update is finished whole.
        """
        async with self._updating("begin a weight update", self._config.begin_timeout_s):
            await self._wake("weights")
            await self._groups.pause_for_update()
            records = self._config.records_digests
            await self._llm.collective_rpc("begin_weight_update", args=(records,))

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

    async def finish_update(self, version: PolicyVersion) -> None:
        """Close the weight update and go on with the next request; vLLM notes ``version`` with each
        token from now on."""
        async with self._updating("finish a weight update"):
            await self._llm.finish_weight_update(str(version))
            await self._wake("kv_cache")  # only now: until here the learner may need the room
            await self._groups.resume_after_update()

    def use_tower(self, name: str | None) -> None:
        """Let the next update bring the frozen vision tower ``name``; None: one that is trained."""
        self._groups.tower = name

    @property
    def num_restarted(self) -> int:
        """Traces that updates of the weights have had written anew, so far."""
        return self._groups.num_interrupted

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

    async def probe(self) -> None:
        """Show that the engine works (rollout/vllm_calls/probe.py); the caller sets a deadline."""
        await probe(self._llm, self._groups, writes=self._probe_writes)

    def stop(self) -> None:
        """End the engine's process."""
        self._llm.shutdown()
        self._llm.shutdown = lambda: None  # vLLM's __del__ calls it, and fails as Python ends

    async def end(self) -> None:
        """:meth:`stop`, which takes seconds, while the event loop goes on."""
        if (reader := getattr(self._llm, "output_handler", None)) is not None:
            reader.cancel()  # it would take the end for a failure
        await asyncio.to_thread(self.stop)

    @contextlib.asynccontextmanager
    async def _updating(self, what: str, pause_s: float | None = None) -> AsyncIterator[None]:
        """Context of a step of a weight update: with a deadline, and errors of ours.

        vLLM leaves a call that waits for a process that is gone waiting; here it ends at once.
        """
        setting = "rollout.pause_timeout_s" if pause_s else "rollout.update_timeout_s"
        async with deadline(pause_s or self._config.update_timeout_s, what, setting) as limit:
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

    async def _run(
        self,
        token_ids: Sequence[int],
        clip: ProcessedClip,
        params: Sequence[Any],
        adapter: Adapter | None,
        salt: str | None = None,
        embeddings: Any = None,
        continued: Sequence[Sequence[int]] | None = None,
        priority: int = 0,
    ) -> list[Any]:
        """One output per element of ``params``, all of requests with this prompt; ``continued``:
        tokens that follow it in each of them."""
        if self._asleep:
            raise GenerationError("the engine sleeps until it gets new weights")

        more = continued or [()] * len(params)
        limit_s = self._config.request_timeout_s

        async def run(params: Sequence[Any], more: Sequence[Sequence[int]]) -> list[Any]:
            requests = vllm_requests(
                *(token_ids, clip, self._rule, self._config),
                continued=more,
                embeddings=embeddings,
                salt=salt,
            )
            lora = adapter and lora_request(adapter)
            outputs = await self._groups.run(requests, params, lora, priority)
            if ended := [k for k, one in enumerate(outputs) if one is None]:
                # by an update: they have the whole time anew
                limit.reschedule(asyncio.get_running_loop().time() + limit_s)
                again = await run([params[k] for k in ended], [more[k] for k in ended])
                outputs = [one or again.pop(0) for one in outputs]
            return outputs

        try:
            async with deadline(limit_s, "answer", "rollout.request_timeout_s") as limit:
                outputs = await run(params, more)
                # the engine core should have kept the clip; where it has not, it says "error"
                ends = [one.outputs[0].finish_reason for one in outputs]
                lost = [k for k, end in enumerate(ends) if k and end == "error"]
                if lost:
                    log.warning("%d requests came to an engine without their clip", len(lost))
                    alone = await asyncio.gather(*[run([params[k]], [more[k]]) for k in lost])
                    for k, (output,) in zip(lost, alone, strict=True):
                        outputs[k] = output
        except DeadlineExceeded:
            raise
        except Exception as error:  # vLLM hands on what its processes raised
            raise GenerationError(f"the engine refused or lost the request: {error}") from error
        return outputs


async def _start_llm(arguments: Any, timeout_s: float) -> Any:
    """vLLM's client, once the engine's process has loaded the model. Raises DeadlineExceeded."""
    from vllm.v1.engine.async_llm import AsyncLLM

    async with deadline(timeout_s, "start", "rollout.start_timeout_s"):
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, AsyncLLM.from_engine_args, arguments)
