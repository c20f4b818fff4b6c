"""Runs a study: the same recipe under several seeds, unattended, then one page of results.

    for each seed:  process `run`  ->  process `controls`      DIR/seed-K/, output in log.txt
    at the end:     all seeds      ->  DIR/study.json, DIR/results.md

Each seed has processes of its own, so that nothing leaks into the next one. The same command goes
on where the last one stopped. A seed that fails is named, and the others go on.
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config.arm_names import ARMS
from cluster.config.recipe import RunConfig, read_recipe
from cluster.driver.progress import console
from cluster.inputs.samples import SampleSplits, check_stages
from cluster.run_dir import RunDir
from cluster.run_files import is_shorter, read_result
from cluster.study.claims import read_notes
from cluster.study.results import StudyInfo, study_results
from cluster.study.results_page import render_page
from cluster.study.seed_runs import read_seed
from rollout.manifest import read_manifest
from wire.config import apply_override
from wire.errors import ConfigError, StudyFailed
from wire.nearest import nearest
from wire.whole_file import whole_file, write_json

_PLACE = "{seed}"
_GRACE_S = 90.0  # a run that is stopped shuts down its engines and Ray
_POLL_S = 0.5
_SHOWN_LINES = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Request for a study: recipe, seeds, settings, arms.

    Example:
        Study(recipe=Path("recipes/demo.toml"), directory=Path("runs/study"), seeds=(1, 2, 3),
              settings=("data.manifest=../data-{seed}/manifest.jsonl",))
    """

    recipe: Path
    directory: Path
    seeds: tuple[int, ...]
    settings: tuple[str, ...] = ()
    """Overrides of the recipe; ``{seed}`` in a value is replaced by each seed."""
    arms: tuple[str, ...] = ()
    """Control arms to run after the stages; none: all."""
    group_by: str | None = None
    """A manifest column whose values are reported apart."""
    results: Path | None = None
    """The page; none: results.md in ``directory``."""
    command: str = "deepintuit study"
    """The typed command, for the page."""
    debug: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedPlan:
    """Checked recipe, data and directory of one seed."""

    seed: int
    run_dir: Path
    overrides: tuple[str, ...]
    """The study's settings with this seed in its places."""
    config: RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """Child process to start: a run or the controls of a seed."""

    study: Study
    plan: SeedPlan
    verb: str
    """The subcommand: run or controls."""

    @property
    def log(self) -> Path:
        """File for the output."""
        return self.plan.run_dir / "log.txt"


def child_command(child: Child) -> list[str]:
    """The command line of a child. A run that has started is resumed."""
    study, plan = child.study, child.plan
    command = [sys.executable, "-m", "cluster.cli", child.verb, str(study.recipe)]
    command += ["--run-dir", str(plan.run_dir)]
    for override in plan.overrides:
        command += ["--set", override]
    if child.verb == "run" and _has_started(plan):
        command.append("--resume")
    if child.verb == "controls" and study.arms:
        command += ["--only", *study.arms]
    return [*command, "--debug"] if study.debug else command


def run_study(study: Study, command: Callable[[Child], list[str]] = child_command) -> Path:
    """Run the seeds that have not finished and write the results. Returns the page's path.

    ``command`` gives the command line of a child. Raises UserError before anything has started,
    StudyFailed after everything if a seed failed, KeyboardInterrupt with the child stopped.
    """
    plans = plan_study(study)
    notes = read_notes(study.directory / "notes.toml")
    study.directory.mkdir(parents=True, exist_ok=True)
    with _only_one(study.directory):
        _say_data(plans)
        failed = {plan.seed: why for plan in plans if (why := _run_seed(study, plan, command))}
        page = _write_results(study, plans, failed, notes)
    if failed:
        raise StudyFailed(
            "; ".join(f"seed {seed}: {why}" for seed, why in failed.items())
            + "; mend the cause and give the same command again: it goes on with these seeds"
        )
    return page


def plan_study(study: Study) -> list[SeedPlan]:
    """Check every seed's recipe, data and directory before anything starts. Raises UserError."""
    if not study.seeds or len(set(study.seeds)) != len(study.seeds):
        raise ConfigError(f"--seeds got {list(study.seeds)}, expected distinct whole numbers")
    if any(setting.partition("=")[0].strip() == "seed" for setting in study.settings):
        raise ConfigError("--set seed=... does not go with --seeds, which sets it; leave it out")
    _check_arms(study.arms)
    plans = [_plan(study, seed) for seed in study.seeds]
    for plan in plans:
        _check_data(plan, study.group_by)
        if _has_started(plan):  # the directory's own check: same recipe, nobody else at work
            RunDir.open(plan.run_dir, plan.config, resume=True, overwrite=False).close()
    return plans


def fill_seed(setting: str, seed: int) -> str:
    """``a.b=text with {seed}`` with the seed in its places.

    TOML tables keep their braces. Raises ConfigError on any other brace in a text.
    """
    filled = setting.replace(_PLACE, str(seed))
    _refuse_braces(_parsed(filled), setting)
    return filled


def _plan(study: Study, seed: int) -> SeedPlan:
    overrides = [fill_seed(setting, seed) for setting in study.settings]
    config = read_recipe(study.recipe, overrides)
    manifest = str(config.data.manifest)
    if _PLACE in manifest:  # in the recipe itself
        manifest = manifest.replace(_PLACE, str(seed))
        overrides.append(f"data.manifest={manifest}")
    _refuse_braces(manifest, f"data.manifest = {config.data.manifest}")
    overrides.append(f"seed={seed}")
    return SeedPlan(
        seed=seed,
        run_dir=study.directory / f"seed-{seed}",
        overrides=tuple(overrides),
        config=read_recipe(study.recipe, overrides),
    )


def _parsed(setting: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    apply_override(values, setting)
    return values


def _refuse_braces(value: Any, setting: str) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            _refuse_braces(inner, setting)
    elif isinstance(value, str) and re.search(r"[{}]", value):
        raise ConfigError(f"{setting!r} has braces that are not {_PLACE}; write {_PLACE} or none")


def _check_arms(arms: Sequence[str]) -> None:
    """Refuse a wrong name now: the first seed's controls start hours later."""
    for arm in arms:
        if arm not in ARMS:
            raise ConfigError(f"--arms: unknown arm {arm!r}; {nearest(arm, ARMS)}")


def _check_data(plan: SeedPlan, group_by: str | None) -> None:
    data = plan.config.data
    samples = read_manifest(data.manifest, plan.config.label_set, data.media_root)
    check_stages(plan.config, SampleSplits(samples=samples), plan.config.chain.names)
    without = [sample for sample in samples if group_by and group_by not in sample.extra]
    if without:
        raise ConfigError(
            f"--group-by {group_by}: {len(without)} of {len(samples)} rows of {data.manifest} "
            f"have no such column; this row has {sorted(without[0].extra)}"
        )


def _has_started(plan: SeedPlan) -> bool:
    return (plan.run_dir / "archive").exists()  # as RunDir sees it


def _say_data(plans: Sequence[SeedPlan]) -> None:
    if len(plans) > 1 and len({plan.config.data.manifest for plan in plans}) == 1:
        _say(
            f"all seeds use the same data, {plans[0].config.data.manifest} "
            f"(a {_PLACE} in data.manifest gives each seed its own)"
        )


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another study is running in {directory}; wait for it, or give another --run-dir"
            ) from error
        yield


def _run_seed(study: Study, plan: SeedPlan, command: Callable[[Child], list[str]]) -> str | None:
    """Run a seed's stages, then its controls. Returns the failure, or None."""
    verbs = ["run", "controls"]
    results = [(read_result(plan.run_dir, stage.name), stage) for stage in plan.config.chain]
    if all(result is not None and not is_shorter(result, stage) for result, stage in results):
        verbs.remove("run")
    for verb in verbs:
        child = Child(study=study, plan=plan, verb=verb)
        status = _run_child(child, command(child))
        if status != 0:
            _say(f"seed {plan.seed}: {verb} failed with status {status}; the end of {child.log}:")
            for line in _last_lines(child.log, _SHOWN_LINES):
                _say(f"    {line}")
            return f"{verb} failed with status {status}"
    return None


def _run_child(child: Child, command: Sequence[str]) -> int:
    """Start a child, wait for it, and end its process group. Returns its exit status."""
    name = f"seed {child.plan.seed}: {child.verb}"
    _say(f"{name}, log in {child.log}")
    child.log.parent.mkdir(parents=True, exist_ok=True)
    before = time.monotonic()
    status: int | None = None
    with child.log.open("ab") as log:
        # A session of its own: Ctrl-C reaches it through us, and its whole group can be ended.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = _wait(process, name, child.log)
        except KeyboardInterrupt:
            _say(f"{name}: stopping it (up to {_GRACE_S:.0f} s; Ctrl-C again kills it)")
            _interrupt(process)
            raise
        finally:
            _end_group(process)
            seconds = time.monotonic() - before
            _record(child, status, seconds)
    _say(f"{name} ended with status {status} after {seconds:.0f} s")
    return status


def _wait(process: subprocess.Popen[bytes], name: str, log: Path) -> int:
    """Wait until the child ends (its waits have deadlines); a terminal shows its last line."""
    if not console.is_terminal:
        return process.wait()
    with console.status(name) as line:
        while True:
            try:
                return process.wait(timeout=_POLL_S)
            except subprocess.TimeoutExpired:
                last = next(iter(_last_lines(log, 1)), "").replace("[", r"\[")
                line.update(f"{name}: {last}"[: max(20, console.width - 4)])


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    # not SIGINT: a shell's background jobs ignore it, and their children inherit that
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
        _say(f"it did not stop within {_GRACE_S:.0f} s and is killed")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever of the child's group is left, and the child itself if it still runs."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait(timeout=_GRACE_S)


def _record(child: Child, status: int | None, seconds: float) -> None:
    """Append a line about a process to the study's record; ``status`` None: interrupted."""
    line = {
        "seed": child.plan.seed,
        "verb": child.verb,
        "status": status,
        "seconds": round(seconds, 1),
        "ended": time.time(),
    }
    with (child.study.directory / "processes.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def _last_lines(path: Path, count: int) -> list[str]:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 20_000))
        lines = file.read().decode(errors="replace").splitlines()
    return [line.rstrip() for line in lines if line.strip()][-count:]


def _write_results(
    study: Study,
    plans: Sequence[SeedPlan],
    failed: Mapping[int, str],
    notes: Mapping[str, str],
) -> Path:
    about = StudyInfo(
        recipe=str(study.recipe),
        command=study.command,
        cores=os.cpu_count() or 0,
        seconds=_total_seconds(study.directory),
        seeds=study.seeds,
        failed=dict(failed),
        group_by=study.group_by,
    )
    runs = [read_seed(plan.run_dir, plan.seed, study.group_by) for plan in plans]
    results = study_results(about, [run for run in runs if run is not None], notes)
    write_json(study.directory / "study.json", results.to_plain())
    page = study.results or study.directory / "results.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(page) as partial:
        partial.write_text(render_page(results), encoding="utf-8")
    return page


def _total_seconds(directory: Path) -> float:
    """Seconds of all processes so far, failed and interrupted ones included."""
    path = directory / "processes.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return float(sum(json.loads(line)["seconds"] for line in lines))


def _say(text: str) -> None:
    """Print a line unfolded: programs read paths and logs, too."""
    console.print(text, soft_wrap=True)
