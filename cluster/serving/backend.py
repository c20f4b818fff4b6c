"""Backend of the service on one machine: a process for each loaded classifier, vLLM below it.

classifier directory -> WorkerClient.start -> OpenClassifier
"""

from collections.abc import Sequence
from pathlib import Path

from cluster.serving.machine import ServingMachine, order_of
from cluster.serving.worker_client import COMMAND, WorkerClient

_START_S = 1_800.0
"""Large weights from a cold disk; vLLM's own limit (rollout.start_timeout_s) comes first."""


class ProcessBackend:
    """A ClassifierBackend whose classifiers run in processes of this machine."""

    def __init__(
        self,
        machine: ServingMachine,
        logs: Path,
        *,
        start_timeout_s: float = _START_S,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """``logs``: a folder for what they print, a file per classifier; ``command``: of a worker's
        process."""
        self.machine, self._logs = machine, logs
        self._timeout_s, self._command = start_timeout_s, command

    async def open(self, directory: Path) -> WorkerClient:
        """Start a published classifier. Raises ConfigError, GenerationError, WorkerDied,
        DeadlineExceeded if it does not start."""
        name = f"classifier {directory.name}"
        machine = self.machine
        return await WorkerClient.start(
            name,
            order_of(str(directory), machine.of_each, machine.cpus),
            self._logs / f"{name.replace(' ', '-')}.log",
            timeout_s=self._timeout_s,
            command=self._command,
            environment=machine.environment,
        )

    async def close(self) -> None:
        """Nothing is shared."""
