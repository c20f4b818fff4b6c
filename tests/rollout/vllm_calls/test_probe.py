import asyncio
from types import SimpleNamespace
from typing import Any

from rollout.vllm_calls.groups import RequestGroups
from rollout.vllm_calls.probe import probe


class Llm:
    """Keeps what it is asked, and writes a token."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.params: list[Any] = []

    async def collective_rpc(self, method: str) -> None:
        self.calls.append(method)

    async def add_request(self, name: str, request: Any, params: Any, **_: Any) -> Any:
        self.calls.append("add_request")
        self.params.append(params)
        return SimpleNamespace(request_id=name, get_nowait=_token, close=lambda: None)


def _token() -> Any:
    return SimpleNamespace(finished=True, outputs=[SimpleNamespace(finish_reason="length")])


async def probed(*, running: int = 0, writes: bool = True) -> Llm:
    llm: Any = Llm()
    groups = RequestGroups(llm, alone=False)
    groups.running = running
    await asyncio.wait_for(probe(llm, groups, writes=writes), 10)
    return llm  # type: ignore[no-any-return]


async def test_an_idle_engine_writes_one_token():
    llm = await probed()
    assert llm.calls == ["add_request"]
    assert [params.max_tokens for params in llm.params] == [1]


async def test_a_busy_engine_is_not_given_a_request_that_would_wait_behind_others():
    assert (await probed(running=1)).calls == ["check_health"]


async def test_nothing_is_written_beside_a_deterministic_run_or_before_a_sleep():
    assert (await probed(writes=False)).calls == ["check_health"]
