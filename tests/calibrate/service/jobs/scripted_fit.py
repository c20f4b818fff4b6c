"""A fit's process that does what its source says, and no more: steps with a checkpoint each, and a
real classifier directory at the end. (No test file.)

    SOURCE/script.json    how many steps, how long each; where it dies, fails or does not listen
    SOURCE/classifiers/N  what it publishes
    SOURCE/steps.log      each step that was made, by every process: what was done twice shows
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

PARTS: dict[str, Any] = {
    "steps": 3,
    "step_s": 0.0,
    "dies_at": None,
    "dies_always": False,
    "fails": None,
    "is_final": True,
    "is_deaf": False,
    "has_child": False,
    "candidates": 0,
}

asked = threading.Event()


def tell(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def end_with_service() -> None:
    while os.read(0, 4096):
        pass
    os._exit(130)


def publish(source: Path, out: Path, number: int) -> None:
    if not out.exists():
        partial = out.with_name(out.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source / "classifiers" / str(number), partial)
        partial.rename(out)


def fit(script: dict[str, Any], source: Path, out: Path, number: int) -> None:
    work = out.with_name(out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / "step"
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    while done < script["steps"]:
        tell(kind="phase", phase="training", done=done, total=script["steps"])
        pause(script["step_s"])
        died = work / "died"
        if done == script["dies_at"] and (script["dies_always"] or not died.exists()):
            died.touch()
            sys.stderr.write("out of memory\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        if script["fails"]:
            tell(
                kind="failed",
                error="DataError",
                detail=script["fails"],
                is_final=script["is_final"],
            )
            sys.exit(1)
        done += 1
        with (source / "steps.log").open("a") as steps:
            steps.write(f"{number}.{done} {os.getpid()}\n")
        (work / "new").write_text(str(done))
        (work / "new").rename(checkpoint)
    publish(source, out, number)
    shutil.rmtree(work)


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    source, out = Path(spec["source"]), Path(spec["out"])
    script = {**PARTS, **json.loads((source / "script.json").read_text())}
    (source / "spec.json").write_text(json.dumps({**spec, "pid": os.getpid()}))
    (source / "environment.json").write_text(json.dumps(dict(os.environ)))
    threading.Thread(target=end_with_service, daemon=True).start()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if script["is_deaf"] else ask_to_end)
    if script["has_child"]:
        child = subprocess.Popen(["sleep", "60"], start_new_session=True, stdout=sys.stderr)
        (source / "child").write_text(str(child.pid))
    if not spec["watch"]:
        fit(script, source, out, 0)
        tell(kind="published", name="classifier", path=str(out))
        return
    for number in range(script["candidates"]):
        candidate = out / "candidates" / f"0.{number}"
        if not candidate.exists():
            fit(script, source, candidate, number)
        tell(kind="published", name=candidate.name, path=str(candidate))
    while not (source / "ended").exists():
        pause(0.02)


def ask_to_end(*_: object) -> None:
    asked.set()


def pause(seconds: float) -> None:
    """Between two steps: here it ends in order, if it was asked to."""
    time.sleep(seconds)
    if asked.is_set():
        sys.exit(130)


if __name__ == "__main__":
    main()
