"""Stands in for the processes of a study: a run directory as a run leaves it, and no engines.

    python -m tests.cluster.study.fake_child VERB RECIPE RUN_DIR ACT RESUME OVERRIDE...

ACT: finish | fail | hang | stubborn (hangs, and ignores being interrupted).
A hanging child starts a process of its own, as a run starts its engines.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

from cluster.config.recipe import read_recipe
from cluster.run_dir import RunDir

STAGES = ("base", "coldstart", "grpo", "calibrated")


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line takes it
    verb, recipe, path, act, resume, *overrides = sys.argv[1:]
    config = read_recipe(Path(recipe), overrides)
    run = RunDir.open(Path(path), config, resume=resume == "True", overwrite=False)
    run.archive.mkdir(exist_ok=True)
    say(f"{verb} resume={resume} seed={config.seed} manifest={config.data.manifest.parent.name}")
    if act == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if act in ("hang", "stubborn"):
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
        (run.path.parent.parent / "helper").write_text(str(helper.pid))
        try:
            time.sleep(120)
        except KeyboardInterrupt:
            say("put away what was half done")
            sys.exit(130)
    if act == "fail":
        say("the engine burnt down")
        sys.exit(1)
    for stage in STAGES if verb == "run" else ("trace_accuracy",):
        run.finish(stage, {"seconds": 1.0})


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
