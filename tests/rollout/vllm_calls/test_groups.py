"""Groups of requests by a scripted vLLM: what is sent in which order, and what failures do."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rollout.config import RolloutConfig
from rollout.engine import Sampling
from rollout.vllm_calls.groups import FIRST, RequestGroups
from rollout.vllm_engine import VllmEngine
from wire.errors import DeadlineExceeded, GenerationError
from wire.types import FinishReason, PolicyVersion, Prompt


class Queue:
    """One request's outputs, of which vLLM gives the last alone."""

    def __init__(self, request_id: str, output: Any, error: Exception | None) -> None:
        self.request_id, self._output, self._error = request_id, output, error
        self.closed = False

    def get_nowait(self) -> Any:
        return None

    async def get(self) -> Any:
        await asyncio.sleep(0)
        if self._error:
            raise self._error
        if self._output is None:
            await asyncio.get_running_loop().create_future()
        return self._output

    def close(self) -> None:
        self.closed = True


def output_of(tokens: tuple[int, ...], reason: str = "stop") -> Any:
    logprobs = [{token: SimpleNamespace(logprob=-1.0)} for token in tokens]
    one = SimpleNamespace(
        token_ids=tokens, logprobs=logprobs, finish_reason=reason, weight_versions=None
    )
    return SimpleNamespace(outputs=[one], finished=True, num_cached_tokens=len(tokens))


@dataclass
class Llm:
    """A vLLM whose engine core keeps the last clip it was sent, and nothing after a pause."""

    errored: bool = False
    forgets: bool = False
    """The core keeps no clip at all, for the next request."""
    hangs: bool = False
    calls: list[str] = field(default_factory=list)
    params: list[Any] = field(default_factory=list)
    queues: list[Queue] = field(default_factory=list)
    fails_at: int | None = None
    held: str | None = None

    @property
    def engine_core(self) -> "Llm":
        return self

    async def add_request(
        self, name: str, request: Any, params: Any, lora_request: Any, priority: int
    ) -> Queue:
        await asyncio.sleep(0)  # others may come in between
        group, has_clip = request
        if self.fails_at == len(self.queues):
            raise ValueError("no such adapter")
        self.calls.append(f"{group}{'+clip' if has_clip else ''}")
        self.params.append(params)
        if has_clip:
            self.held = None if self.forgets else group
            self.forgets = False
        found = has_clip or self.held == group
        output = output_of((7, len(self.queues))) if found else output_of((), "error")
        self.queues.append(Queue(name, None if self.hangs else output, None))
        return self.queues[-1]

    async def pause_scheduler_async(self, mode: str, clear_cache: bool) -> None:
        await asyncio.sleep(0)
        self.held = None
        self.calls.append("pause")

    async def resume_generation(self) -> None:
        self.calls.append("resume")

    async def abort(self, names: list[str], internal: bool) -> None:
        self.calls.append(f"abort {len(names)}")


def group(name: str, count: int) -> list[Any]:
    return [(name, True), *[(name, False)] * (count - 1)]


async def test_groups_do_not_mix_so_that_the_core_needs_to_keep_one_clip_only():
    llm = Llm()
    groups = RequestGroups(llm, alone=False)
    a, b = await asyncio.gather(
        groups.run(group("a", 3), [None] * 3, None),
        groups.run(group("b", 3), [None] * 3, None),
    )
    assert llm.calls == ["a+clip", "a", "a", "b+clip", "b", "b"]
    assert [one.outputs[0].finish_reason for one in a + b] == ["stop"] * 6
    assert groups.running == 0


async def test_an_update_that_empties_the_caches_waits_for_the_rest_of_a_group():
    llm = Llm()
    groups = RequestGroups(llm, alone=False)
    answers, _ = await asyncio.gather(groups.run(group("a", 4), [None] * 4, None), groups.pause())
    assert llm.calls == ["a+clip", "a", "a", "a", "pause"]
    assert [one.outputs[0].finish_reason for one in answers] == ["stop"] * 4


async def test_a_group_that_is_alone_is_added_while_nothing_is_computed():
    llm = Llm()
    groups = RequestGroups(llm, alone=True)
    await asyncio.gather(*[groups.run(group(name, 2), [None] * 2, None) for name in "ab"])
    assert llm.calls == ["pause", "a+clip", "a", "resume", "pause", "b+clip", "b", "resume"]


async def test_a_group_that_is_cancelled_is_aborted_whole():
    llm = Llm(hangs=True)
    groups = RequestGroups(llm, alone=False)
    task = asyncio.create_task(groups.run(group("a", 3), [None] * 3, None))
    await asyncio.sleep(0.05)
    assert groups.running == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert llm.calls[-1] == "abort 3"
    assert all(queue.closed for queue in llm.queues)
    assert groups.running == 0


async def test_a_request_that_is_refused_takes_those_before_it_with_it():
    llm = Llm(fails_at=2)
    with pytest.raises(ValueError, match="no such adapter"):
        await RequestGroups(llm, alone=False).run(group("a", 3), [None] * 3, None)
    assert llm.calls == ["a+clip", "a", "abort 2"]


# --- an update while requests run


@dataclass
class Running(Llm):
    """A vLLM whose requests run until it ends them: aborted by a pause of that mode, awaited by
    another."""

    modes: list[str] = field(default_factory=list)
    outputs: list[asyncio.Future[Any]] = field(default_factory=list)
    priorities: list[int] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    """Of each pause, whether media and encoder caches were kept."""

    async def resume_generation(self) -> None:
        self.calls.append("resume")

    async def reset_prefix_cache_async(self, reset_running_requests: bool) -> None:
        assert reset_running_requests
        self.calls.append("reset prefixes")

    async def finish_weight_update(self, version: str) -> None:
        self.calls.append("finish")

    async def add_request(
        self, name: str, request: Any, params: Any, lora_request: Any, priority: int
    ) -> Any:
        output = asyncio.get_running_loop().create_future()
        self.calls.append(f"{request[0]}{'+clip' if request[1] else ''}")
        self.params.append(params)
        self.priorities.append(priority)
        self.outputs.append(output)
        return SimpleNamespace(
            request_id=name, get_nowait=lambda: None, get=lambda: output, close=lambda: None
        )

    async def pause_scheduler_async(self, mode: str, clear_cache: bool) -> None:
        self.modes.append(mode)
        self.kept.append(not clear_cache)
        open_ = [output for output in self.outputs if not output.done()]
        if mode == "abort":
            for output in open_:
                output.set_result(output_of((7,), "abort"))
        elif mode == "wait":
            await asyncio.gather(*open_)

    def end(self, *numbers: int) -> None:
        for number in numbers:
            self.outputs[number].set_result(output_of((7, number)))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_update_has_unfinished_traces_written_anew_and_leaves_finished_ones(engine: Any):
    llm = Running()
    one = engine(llm, in_flight="restart")
    sampling = Sampling(n=4, temperature=1.0, max_tokens=5, seed=40)
    writing = asyncio.create_task(one.generate(PROMPT, CLIP, sampling))
    await settle()
    llm.end(1)
    await one._groups.pause_for_update()
    await settle()
    assert llm.calls == ["a+clip", "a", "a", "a", "a+clip", "a", "a"], "the clip comes once more"
    assert [params.seed for params in llm.params[4:]] == [40, 42, 43]
    llm.end(4, 6)
    await one._groups.pause_for_update()
    await settle()
    assert [params.seed for params in llm.params[7:]] == [42]
    llm.end(7)
    answers = (await writing).answers
    assert [answer.token_ids for answer in answers] == [(7, 4), (7, 1), (7, 7), (7, 6)]
    assert one.num_restarted == 4
    assert llm.modes == ["abort", "abort"]


async def test_a_clip_that_was_lost_may_meet_an_update_too(engine: Any):
    llm = Running()
    one = engine(llm, in_flight="restart")
    writing = asyncio.create_task(one.generate(PROMPT, CLIP, SAMPLING))
    await settle()
    llm.end(0)
    llm.outputs[1].set_result(output_of((), "error"))
    await settle()
    assert llm.calls == ["a+clip", "a", "a+clip"]
    await one._groups.pause_for_update()
    await settle()
    llm.end(3)
    assert [answer.token_ids for answer in (await writing).answers] == [(7, 0), (7, 3)]


async def test_a_request_that_ends_by_itself_as_aborted_is_an_error_not_a_restart(engine: Any):
    llm = Running()
    writing = asyncio.create_task(engine(llm, in_flight="restart").generate(PROMPT, CLIP, SAMPLING))
    await settle()
    llm.outputs[0].set_result(output_of((7,), "abort"))
    llm.end(1)
    with pytest.raises(GenerationError, match="reason abort"):
        await writing


async def test_a_restarted_trace_has_the_whole_time_anew(engine: Any):
    llm = Running()
    one = engine(llm, in_flight="restart", request_timeout_s=0.5)
    writing = asyncio.create_task(one.generate(PROMPT, CLIP, SAMPLING))
    for _ in range(3):
        await asyncio.sleep(0.3)
        await one._groups.pause_for_update()
    await settle()
    llm.end(*range(len(llm.outputs) - 2, len(llm.outputs)))
    assert len((await writing).answers) == 2


async def test_an_update_that_waits_begins_when_all_is_written_and_nothing_new_was_begun(
    engine: Any,
):
    llm = Running()
    one = engine(llm, in_flight="wait")
    first = asyncio.create_task(one.generate(PROMPT, CLIP, SAMPLING))
    await settle()
    pausing = asyncio.create_task(one._groups.pause_for_update())
    await settle()
    second = asyncio.create_task(one.generate(PROMPT, CLIP, SAMPLING))
    await settle()
    assert (len(llm.calls), pausing.done()) == (2, False)
    llm.end(0, 1)
    await pausing
    await settle()
    assert len(llm.calls) == 4
    llm.end(2, 3)
    assert [len((await one).answers) for one in (first, second)] == [2, 2]
    assert one.num_restarted == 0


async def test_an_update_that_keeps_what_runs_ends_none_of_it(engine: Any):
    llm = Running()
    one = engine(llm)
    writing = asyncio.create_task(one.generate(PROMPT, CLIP, SAMPLING))
    await settle()
    await one._groups.pause_for_update()
    llm.end(0, 1)
    assert len((await writing).answers) == 2
    assert (llm.modes, one.num_restarted) == (["keep"], 0)


async def test_an_update_keeps_what_a_frozen_tower_saw_and_no_other(engine: Any):
    llm = Running()
    one = engine(llm)
    for tower in (None, None, "a", "a", "b", "b", None, "b"):
        one.use_tower(tower)
        await one._groups.pause_for_update()
    assert llm.kept == [False, False, False, True, False, True, False, False]
    assert llm.calls == ["reset prefixes"] * 2, "keys and values are of the old weights"


async def test_a_deterministic_run_keeps_nothing_over_an_update():
    llm = Running()
    groups = RequestGroups(llm, alone=True)
    groups.tower = "a"
    for _ in range(2):
        await groups.pause_for_update()
    assert llm.kept == [False, False]


async def updated(one: Any) -> None:
    await one._groups.pause_for_update()
    await one.finish_update(PolicyVersion(attempt=0, step=3))


async def test_the_proof_of_an_update_comes_before_kept_traces_and_they_go_on_with_it(engine: Any):
    llm = Running()
    one = engine(llm)
    writing = asyncio.create_task(one.generate(PROMPT, CLIP, SAMPLING))
    await settle()
    await updated(one)
    await settle()
    assert llm.calls == ["a+clip", "a", "finish"], "it goes on once the proof is there"
    proving = asyncio.create_task(one._run((1, 2), CLIP, [SimpleNamespace()], None, priority=FIRST))
    await settle()
    assert llm.calls[3:] == ["a+clip", "resume"]
    assert llm.priorities == [0, 0, FIRST]
    llm.end(0, 1)
    await writing
    proving.cancel()


async def test_an_update_without_a_proof_goes_on_by_itself(
    engine: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rollout.vllm_calls.groups._PROOF_COMES_S", 0.01)
    llm = Running()
    one = engine(llm)
    await updated(one)
    await one._groups.pause_for_update()  # another at once: its weights are to be whole first
    await asyncio.sleep(0.05)
    assert llm.calls == ["finish"]
    await one.finish_update(PolicyVersion(attempt=0, step=4))
    await asyncio.sleep(0.05)
    assert llm.calls == ["finish", "finish", "resume"]


# --- in the engine


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``engine(llm)``: with requests as above instead of vLLM's."""

    def requests(
        ids: Any, clip: Any, rule: Any, config: Any, *, continued: Any, embeddings: Any, salt: Any
    ) -> Any:
        return group(
            clip.fingerprint + (" embedded" if embeddings is not None else ""), len(continued)
        )

    monkeypatch.setattr("rollout.vllm_engine.vllm_requests", requests)

    def make(llm: Llm, **config: Any) -> VllmEngine:
        rule: Any = SimpleNamespace(is_video=lambda ids: np.asarray(ids) == VIDEO)
        return VllmEngine(llm, RolloutConfig(**config), rule, [9])

    return make


VIDEO = 2
CLIP: Any = SimpleNamespace(fingerprint="a", embeddings=None)
PROMPT = Prompt(token_ids=(1, VIDEO), clip_key="c", fingerprint="f")
SAMPLING = Sampling(n=2, temperature=1.0, max_tokens=5)


async def test_answers_have_seeds_of_their_own_or_none(engine: Any):
    llm = Llm()
    sampling = Sampling(n=3, temperature=0.7, max_tokens=5, seed=40)
    generation = await engine(llm).generate(PROMPT, CLIP, sampling)
    assert [params.seed for params in llm.params] == [40, 41, 42]
    assert {(one.n, one.temperature, one.max_tokens) for one in llm.params} == {(1, 0.7, 5)}
    assert [answer.token_ids[1] for answer in generation.answers] == [0, 1, 2]
    assert generation.answers[0].finish_reason is FinishReason.STOP
    llm.params.clear()
    await engine(llm).generate(PROMPT, CLIP, Sampling(n=2, temperature=0.7, max_tokens=5))
    assert [params.seed for params in llm.params] == [None, None]


async def test_a_clip_that_the_core_has_lost_is_sent_once_more(engine: Any):
    llm = Llm(forgets=True)
    sampling = Sampling(n=3, temperature=1.0, max_tokens=5, seed=40)
    generation = await engine(llm).generate(PROMPT, CLIP, sampling)
    assert llm.calls == ["a+clip", "a", "a", "a+clip", "a+clip"]
    assert [params.seed for params in llm.params] == [40, 41, 42, 41, 42]
    assert len(generation.answers) == 3


async def test_vllms_refusal_and_a_deadline_are_errors_of_ours(engine: Any):
    sampling = Sampling(n=2, temperature=1.0, max_tokens=5)
    with pytest.raises(GenerationError, match="no such adapter"):
        await engine(Llm(fails_at=1)).generate(PROMPT, CLIP, sampling)
    llm = Llm(hangs=True)
    with pytest.raises(DeadlineExceeded, match=r"raise rollout\.request_timeout_s"):
        await engine(llm, request_timeout_s=0.2).generate(PROMPT, CLIP, sampling)
    assert llm.calls[-1] == "abort 2"


# --- embeddings that are shared with the learner


class Shared:
    """Embeddings by clip, as a node's store keeps them."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def find(self, prompt: Prompt) -> Any:
        return self.kept.get(prompt.clip_key)

    def keep(self, prompt: Prompt, clip: Any, embeddings: Any) -> None:
        self.kept[prompt.clip_key] = embeddings


class Embedding(Llm):
    """Hands out embeddings, has lost them, or ends."""

    answer: Any = ("float32", [2, 3], bytes(24))

    async def collective_rpc(self, method: str, args: tuple[str, ...]) -> list[Any]:
        self.calls.append(f"{method} {args[0]}")
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.answer, None]  # of two workers


async def test_the_tower_looks_once_and_later_groups_bring_its_embeddings(engine: Any):
    llm, shared = Embedding(), Shared()
    one = engine(llm)
    one.embeddings = shared
    await one.generate(PROMPT, CLIP, SAMPLING)
    assert llm.calls == ["a+clip", "a", "clip_embeddings a"]
    assert shared.kept["c"].shape == (2, 3)
    llm.calls.clear()
    await one.generate(PROMPT, CLIP, SAMPLING)
    assert llm.calls == ["a embedded+clip", "a embedded"]


@pytest.mark.parametrize("answer", [None, RuntimeError("a worker ended")])
async def test_answers_do_not_need_that_embeddings_are_kept(
    engine: Any, answer: Any, caplog: pytest.LogCaptureFixture
):
    llm, shared = Embedding(), Shared()
    llm.answer = answer
    one = engine(llm)
    one.embeddings = shared
    generation = await one.generate(PROMPT, CLIP, SAMPLING)
    assert len(generation.answers) == 2
    assert shared.kept == {}
    assert ("are not kept: a worker ended" in caplog.text) is (answer is not None)


async def test_the_parity_probe_always_has_the_tower_look(engine: Any):
    llm, shared = Embedding(), Shared()
    shared.kept["c"] = object()
    one = engine(llm)
    one.embeddings = shared
    llm.model_config = SimpleNamespace(get_vocab_size=lambda: 600)  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="prompt_logprobs"):  # which these outputs lack
        await one.logprobs(PROMPT, CLIP, [5])
    assert llm.calls == ["a+clip"]
