"""Builders for the tests of reward functions: questions, and runners that are closed again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path
from typing import Any

from reward.config import RewardTerm
from reward.plugins.question import Asked, Question
from reward.plugins.runner import PluginRunner
from wire.types import Failure, FailureKind


def ask(*texts: str, label: str = "normal", columns: Mapping[str, Any] | None = None) -> Question:
    return Question(
        sample_id="train-1",
        split="train",
        label=label,
        columns={"fps": 2, "made": Path("x")} if columns is None else columns,
        prompt="Which label?",
        step=3,
        traces=tuple(
            Asked(text=text, token_ids=(7, 9), is_truncated=False, policy_version="0.3")
            for text in texts
        ),
    )


def make_term(function: str, timeout_s: float, **fields: Any) -> RewardTerm:
    return RewardTerm(function=function, name="hostile", timeout_s=timeout_s, **fields)


@contextlib.asynccontextmanager
async def running(
    path: Path,
    source: str,
    timeout_s: float = 60.0,
    *,
    function: str = "compute_score",
    columns: Collection[str] | None = None,
    **fields: Any,
) -> AsyncIterator[PluginRunner]:
    """``fields``: further ones of the term."""
    file = path / "hostile.py"
    file.write_text(source)
    runner = PluginRunner(make_term(f"{file}:{function}", timeout_s, **fields), columns)
    try:
        await runner.start()
        yield runner
    finally:
        await runner.close()


async def values(runner: PluginRunner, *texts: str, **fields: Any) -> list[float | str | None]:
    """What each trace got: a value, None, or the reason of a failure that names the plugin."""
    found: list[float | str | None] = []
    for outcome in await runner.score(ask(*texts, **fields)):
        if isinstance(outcome, Failure):
            assert (outcome.kind, outcome.culprit) == (FailureKind.REWARD, "hostile")
            found.append(outcome.reason)
        else:
            found.append(outcome.value)
    return found


async def until_dead(pid: int) -> None:
    for _ in range(200):
        if not alive(pid):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"process {pid} is still there")


def alive(pid: int) -> bool:
    """Whether the process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
