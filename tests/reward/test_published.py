"""Published reward functions run unchanged: TRL's own where it is installed, and functions with the
parameters of those in verl's package."""

import asyncio
from pathlib import Path

import pytest

from reward.runner import Limits, PluginRunner
from tests.reward.plugins import running, values

VERL = """
def gsm8k_like(solution_str, ground_truth, method="strict", format_score=0.0, score=1.0):
    return score if ground_truth in solution_str else format_score

def dispatcher_like(data_source, solution_str, ground_truth, extra_info=None,
                    sandbox_fusion_url=None, concurrent_semaphore=None, memory_limit_mb=None,
                    **kwargs):
    return {"score": gsm8k_like(solution_str, ground_truth), "acc": 1.0, "pred": "normal"}
"""
TRL = """
from trl.rewards import get_soft_overlong_punishment
overlong = get_soft_overlong_punishment(max_completion_len=4, soft_punish_cache=2)
"""


@pytest.mark.parametrize("function", ["gsm8k_like", "dispatcher_like"])
async def test_parameter_lists_of_verls_package_are_understood(
    tmp_path: Path, function: str
) -> None:
    async with running(tmp_path, VERL, function=function) as runner:
        assert await values(runner, "it is normal", "no") == [1.0, 0.0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "needs"), [("think_format_reward", "trl"), ("accuracy_reward", "math_verify")]
)
def test_trls_rewards_of_chat_messages_run_unchanged(name: str, needs: str) -> None:
    pytest.importorskip("trl")
    pytest.importorskip(needs)
    limits = Limits(timeout_s=120.0)
    runner = PluginRunner("hostile", f"trl.rewards:{name}", limits, as_messages=True)

    async def ask() -> list[float | str | None]:
        await runner.start()
        try:
            return await values(runner, "<think>\nx\n</think>\n$2$", "no", label="$2$")
        finally:
            await runner.close()

    good, bad = asyncio.run(ask())
    assert good == 1.0
    assert bad in (0.0, None)


@pytest.mark.slow
async def test_trls_reward_of_token_ids_runs_unchanged(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    async with running(tmp_path, TRL, function="overlong", timeout_s=120.0) as runner:
        assert await values(runner, "two ids") == [0.0]
