"""A worker whose pipeline is a script: what a clip's file begins with is what happens. (No test
file.)

    python tests/cluster/serving/scripted_worker.py SOCKET ROOT
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, sys.argv[2])

from calibrate.decision import Evidence
from cluster.serving.worker import main
from wire.errors import ConfigError, GenerationError
from wire.types import Failure, FailureKind

ROW = (-0.1, float("nan"), float("-inf"))


class ScriptedPipeline:
    """Answers of a script."""

    def __init__(self, name: str) -> None:
        self.name, self.is_alive = name, True
        self.running = 0

    async def evidence(self, sample: Any, view: Any = None) -> Evidence | Failure:
        self.running += 1
        try:
            return await self._evidence(sample, view)
        finally:
            self.running -= 1

    async def _evidence(self, sample: Any, view: Any) -> Evidence | Failure:
        command, _, argument = Path(sample.video.split("#")[0]).read_text().partition(":")
        match command:
            case "fail":
                return Failure(kind=FailureKind.DECODE, culprit=sample.video, reason=argument)
            case "slow":
                await asyncio.sleep(float(argument))
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "engine":
                self.is_alive = False
                raise GenerationError("an engine's process has ended")
            case "bug":
                raise ZeroDivisionError("a bug")
        return Evidence(
            trace=f"{self.name} {sample.id} {sample.video} {view} {self.running}",
            parsed=True,
            logprobs={"verdict": ROW},
            votes={"normal": 2},
            frames=(0, 4),
            trace_logprobs=(-0.1, -1e-30),
            video_hash="ab",
        )


@asynccontextmanager
async def opened(order: Mapping[str, Any]) -> AsyncIterator[ScriptedPipeline]:
    name = Path(order["directory"]).name
    if name == "refused":
        raise ConfigError("no such model")
    if name == "broken":
        sys.stderr.write("OutOfMemoryError: no room\n")
        raise GenerationError("vLLM did not start")
    if name == "exits":
        sys.stderr.write("ImportError: no module vllm\n")
        sys.exit(1)
    if name == "hangs":
        await asyncio.sleep(60)
    yield ScriptedPipeline(name)


if __name__ == "__main__":
    main(opened)
