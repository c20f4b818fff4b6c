"""Baseline of the benchmark: a user's function in a bare process, without pipe, guard and limits.

    FOLDER/settings.json, FOLDER/questions.jsonl -> the same calls, one after another
        -> FOLDER/seconds.json

Started by :func:`plain_loop_seconds`, in a process of its own because the function is other
people's code.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reward.plugins.calls import answer
from reward.plugins.child import module_paths
from reward.plugins.plugin import load

_START = "import sys; sys.path[:] = {paths!r}; from reward.tools.plain_loop import main; main()"


def plain_loop_seconds(
    settings: Mapping[str, Any], lines: Iterable[bytes], timeout_s: float
) -> float | None:
    """Seconds that the calls took in a plain loop; None if the process failed, or was not done in
    time.

    ``settings``: spec, params, style, as_messages; ``lines``: of :meth:`Question.to_json`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "settings.json").write_text(json.dumps(settings))
        with (folder / "questions.jsonl").open("wb") as file:
            file.writelines(lines)
        command = [sys.executable, "-c", _START.format(paths=module_paths()), name]
        try:
            subprocess.run(
                command,
                timeout=timeout_s,
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            return float(json.loads((folder / "seconds.json").read_text()))
        except (subprocess.SubprocessError, OSError, ValueError):
            return None


def main() -> None:
    """Entry point of the process; ``argv``: the folder."""
    folder = Path(sys.argv[1])
    settings = json.loads((folder / "settings.json").read_text())
    plugin = load(settings.pop("spec"), **settings)
    with (folder / "questions.jsonl").open("rb") as file:
        questions = [json.loads(line) for line in file]
    replies: list[Mapping[str, Any]] = []
    with asyncio.Runner() as loop:
        begin = time.perf_counter()
        for question in questions:
            answer(plugin, question, loop, replies.append)
        seconds = time.perf_counter() - begin
    (folder / "seconds.json").write_text(json.dumps(seconds))
