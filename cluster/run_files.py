"""Files of a run directory, read without opening the run."""

import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibrate.published import PublishedClassifier
from cluster.config.chain import Chain, read_chain
from cluster.config.controls import read_titles
from cluster.config.kinds.stage import Stage
from cluster.config.recipe import RunConfig
from cluster.config.trainings import training_of
from rollout.prompts_config import DEFAULT_VERSION
from wire.config import validate
from wire.errors import ConfigError, DataError, UserError
from wire.labels import LabelSet
from wire.strict_json import from_json

RECIPE_FILE = "run.json"
ATTEMPTS_FILE = "attempts.jsonl"
STARTED_FROM_FILE = "started_from.json"
"""Which stage of another run the model came from (cluster/inputs/from_run.py)."""
REPLACED = "replaced"
"""Folder of what resumes have replaced: recipes, and results of weights that are no more."""

SILENT_S = 60.0
"""Seconds without a heartbeat after which a process on another machine counts as dead."""


def holds_run(path: Path) -> bool:
    """Whether a run has begun in a directory: before its archive is made, nothing is lost."""
    return (path / "archive").exists()


def replaced_folder(path: Path, attempt: int) -> Path:
    """Folder of what attempt number ``attempt`` of the run in ``path`` replaces."""
    return path / REPLACED / f"before-attempt-{attempt:03d}"


def read_result(path: Path, stage: str) -> dict[str, Any] | None:
    """Result of a stage of the run in ``path``; takes no lock. Raises DataError if it is
    damaged."""
    file = path / "stages" / stage / "done.json"
    try:
        result = from_json(file.read_text()) if file.exists() else None
    except ValueError as error:
        raise DataError(
            f"{file} is cut off or damaged ({error}); remove it, and --resume runs {stage} again "
            "from its last checkpoint"
        ) from error
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHistory:
    """What the attempts of a run changed (attempts.jsonl).

    Example:
        RunHistory(changes=("attempt 1: grpo.num_steps = 6 (was 3), grpo goes on after 3 steps",),
                   beginnings={"calibrated": 1})
    """

    changes: tuple[str, ...] = ()
    """A line for each setting that a resume changed, oldest first."""
    beginnings: Mapping[str, int] = field(default_factory=dict)
    """Stage or arm -> attempt with which it began anew; what earlier ones wrote of it is none of
    its results."""


def read_history(path: Path) -> RunHistory:
    """History of the run in ``path``; empty if there is none, or where it cannot be read."""
    records: dict[int, dict[str, Any]] = {}
    try:
        lines = (path / ATTEMPTS_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("attempt"), int):
                records[record["attempt"]] = record
    beginnings: dict[str, int] = {}
    texts: list[str] = []
    seen: dict[str, Any] = {}
    for attempt, record in sorted(records.items(), reverse=True):
        beginnings = dict.fromkeys(record.get("restarted", ()), attempt) | beginnings
        for one in reversed(record.get("changes", ())):
            # A resume that was killed before it began has changed nothing: the next one sees it.
            if seen.get(one["name"], one["now"]) == one["now"]:
                texts.append(
                    f"attempt {attempt}: {one['name']} = {one['now']!r} (was {one['before']!r}), "
                    f"{one['holds']}"
                )
            seen[one["name"]] = one["before"]
    return RunHistory(changes=tuple(reversed(texts)), beginnings=beginnings)


def is_shorter(result: Mapping[str, Any], stage: Stage | None) -> bool:
    """Whether a result is of fewer steps or epochs than the recipe's stage: it is to go on."""
    training, length = training_of(stage), result.get("length")
    return training is not None and isinstance(length, int) and length < training.length


def read_started_from(path: Path) -> dict[str, Any] | None:
    """The stage of another run that the run in ``path`` started from: run, stage, version_step,
    length, weights_sha256; None if it started from a model of no run."""
    try:
        record = json.loads((path / STARTED_FROM_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def describe_source(record: Mapping[str, Any] | None) -> str:
    """A line about the stage that a run started from; empty for None."""
    if record is None:
        return ""
    length = f" after {record['length']}" if record.get("length") else ""
    weights = str(record.get("weights_sha256", ""))[:12]
    return f"{record.get('run')}:{record.get('stage')}{length} (weights {weights})"


def going_on(path: Path) -> Iterator[str]:
    """A line for each finished stage that is to be longer than its result."""
    for stage in read_run_chain(path):
        training = training_of(stage)
        with suppress(OSError, ValueError):
            result = read_result(path, stage.name) or {}
            if training is not None and is_shorter(result, stage):
                yield (
                    f"{stage.name} goes on from {result['length']} to {training.length} "
                    f"{training.unit}; its model is still the one of {result['length']}"
                )


def result_figures(result: Mapping[str, Any]) -> dict[str, Any]:
    """The figures in what a stage or arm left (done.json): of its answers, of its verdict, else of
    the head; empty where it predicts nothing."""
    figures = result.get("evaluation") or result.get("verdict") or result.get("head")
    return figures or {}


def read_classifiers(path: Path) -> dict[str, PublishedClassifier]:
    """Stage -> the classifier that it published, of the finished stages of the run in ``path``.
    Raises DataError if one cannot be read."""
    results = {stage: read_result(path, stage) or {} for stage in read_run_chain(path).names}
    published = {stage: PublishedClassifier.of(result) for stage, result in results.items()}
    return {stage: one for stage, one in published.items() if one is not None}


def read_recipe_file(path: Path) -> dict[str, Any]:
    """Plain values of the recipe of the run in ``path``. Raises ConfigError if there is no run,
    DataError that says what is wrong with its run.json, and what to do."""
    file = path / RECIPE_FILE
    remedy = f"restore it from a copy{_older_copies(path)}, or start the run anew (--overwrite)"
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"there is no run in {path}; give the --run-dir of one") from error
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}; {remedy}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not a run's recipe but binary data; {remedy}") from error
    if not text.strip("\0 \n\r\t"):
        raise DataError(f"{file} is not a run's recipe: it is empty; {remedy}")
    try:
        values = json.loads(text)
    except ValueError as error:
        raise DataError(
            f"{file} is not a run's recipe: it is cut off or damaged ({error}); {remedy}"
        ) from error
    if not isinstance(values, dict) or not {"model", "labels", "data"} <= values.keys():
        raise DataError(
            f"{file} is not a run's recipe: it has no model, labels and data, so another program "
            f"wrote it; {remedy}"
        )
    return values


def read_run_recipe(path: Path) -> RunConfig:
    """Recipe of the run in ``path``. Raises ConfigError if there is no run, DataError that says
    what is wrong with its run.json, such as settings of another version."""
    values = read_recipe_file(path)
    try:
        return validate(RunConfig, values, str(path / RECIPE_FILE))
    except ConfigError as error:
        raise DataError(
            f"another version of this program wrote this recipe: {error}; use the version that "
            "wrote it"
        ) from error


def recipe_fault(path: Path) -> str:
    """What is wrong with the run.json of the run in ``path``, and what to do; empty if nothing."""
    try:
        read_run_recipe(path)
    except UserError as error:
        return str(error)
    return ""


def _older_copies(path: Path) -> str:
    copies = sorted(path.glob(f"{REPLACED}/*/{RECIPE_FILE}"))
    return f" ({copies[-1]} is what it was before a resume changed it)" if copies else ""


def validation_outcome(result: Mapping[str, Any]) -> str:
    """What came of a stage's validations, in words, from its done.json; empty without any."""
    validation, stopped = result.get("validation"), result.get("stopped_early")
    if not validation:
        return ""
    metric, left = validation["metric"], validation["left_step"]
    words = f"best {metric} {validation['best']:.4g} at step {validation['best_step']}"
    gained = validation["best"] != validation.get("first") or validation["num_validations"] == 1
    if not gained:
        words = f"{metric} was never better than at first, {validation['best']:.4g}"
    if stopped:
        words += f"; stopped early at step {stopped['step']} (patience {stopped['patience']})"
    kept = " (the best)" if gained and left == validation["best_step"] else ""
    return f"{words}; left the weights of step {left}{kept}"


def rationales_outcome(result: Mapping[str, Any]) -> str:
    """What came of a stage's rationales, in words, from its done.json; empty without any."""
    if not (written := result.get("rationales")):
        return ""
    why = [
        f"{one['num_dropped']} {reason}"
        for reason, one in written["filters"].items()
        if one["num_dropped"]
    ]
    return (
        f"{written['num_kept']} of {written['num_written']} {written['task']}s kept, of "
        f"{written['num_clips_kept']} clips" + (f"; not kept: {', '.join(why)}" if why else "")
    )


def tokenizer_outcome(result: Mapping[str, Any]) -> str:
    """What came of a stage's semantic tokenizer, in words, from its done.json; empty without
    one."""
    if not (tokenizer := result.get("tokenizer")):
        return ""
    words = f"tokenizer {tokenizer['version']}, {result['num_clips']} clips have codes"
    if not (figures := result.get("figures")):
        return f"{words}; it was not fitted here"
    return (
        f"{words}; of the clips it learned from: {figures['codes_used']:.0f} codes used, "
        f"perplexity {figures['perplexity']:.1f}, switch rate {figures['switch_rate']:.2f}, a run "
        f"of {figures['mean_run_length']:.1f} segments"
    )


def stage_outcome(result: Mapping[str, Any]) -> str:
    """What came of a stage beside its measurement, in words, from its done.json; often empty."""
    outcomes = (validation_outcome, rationales_outcome, tokenizer_outcome)
    return next(filter(None, (outcome(result) for outcome in outcomes)), "")


def prompt_versions(results: Iterable[Mapping[str, Any]]) -> str:
    """Versions of the recipe's own prompts that stages asked with, from their done.json; empty
    where all texts were DeepIntuit's."""
    pairs = {pair for result in results for pair in result.get("prompt_versions", {}).items()}
    own = sorted(pair for pair in pairs if pair[1] != DEFAULT_VERSION)
    return ", ".join(f"{kind} {version}" for kind, version in own)


def read_recipe_values(path: Path) -> dict[str, Any]:
    """Plain values of the recipe of the run in ``path``; empty if they cannot be read."""
    try:
        return read_recipe_file(path)
    except UserError:
        return {}


def read_run_chain(path: Path) -> Chain:
    """The stages of the run in ``path``; the default ones if its recipe cannot be read."""
    return read_chain(read_recipe_values(path))


def read_run_titles(path: Path) -> dict[str, str]:
    """Name -> title of all that the run in ``path`` may measure, in the order of the tables."""
    return read_titles(read_recipe_values(path))


def read_label_names(path: Path) -> tuple[str, ...]:
    """Label names of the run in ``path``, which may still be going on; takes no lock.

    Raises ConfigError if there is no run, DataError if its recipe cannot be read.
    """
    file = str(path / RECIPE_FILE)
    return validate(LabelSet, {"labels": read_recipe_file(path)["labels"]}, file).names


def prediction_files(path: Path) -> dict[str, Path]:
    """Prediction files of the run in ``path`` so far: stages in their order, then arms by name."""
    files = {file.stem: file for file in sorted((path / "predictions").glob("*.parquet"))}
    chain = read_run_chain(path)
    return {name: files.pop(name) for name in chain.names if name in files} | files


def is_locked(path: Path) -> bool | None:
    """Whether a process has locked the run directory ``path``: one of this machine, or of any if
    the file system shares locks. None: the file system has no locks. Writes nothing."""
    try:
        with (path / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False
