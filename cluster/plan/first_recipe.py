"""Writes a first recipe for a manifest: required keys, and values that fit data and machine.

manifest -> labels, clips of each split, traces -> TOML with the reasons as comments
"""

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rollout.config import RolloutConfig
from rollout.manifest import read_rows
from wire.errors import DataError
from wire.types import Split

_STEPS = (20, 240)
"""Least and most steps of GRPO; DeepIntuit makes 240."""
_PASSES = 10
"""Passes of GRPO over a small data set."""
_MOST_GROUPS = 64
"""Clips per step; DeepIntuit's."""
_PROMPTS = """\
# [prompts]  # your own words, or { file = "trace.txt" }; fields in braces: docs/prompts.md
# trace = "Of {labels}, which?\\n{definitions}\\nReason in <think>, then <answer>LABEL</answer>."
"""
_CPU = """
[rollout]
dtype = "float32"  # no GPU here: exact parity with the learner
block_size = 32
{lengths}
[learner]
dtype = "float32"
"""
_ONE_GPU = """
[rollout]  # engine and learner share the GPU
num_gpus = 0.5
gpu_memory_utilization = 0.4
{lengths}
[learner]
num_gpus = 0.5

[transfer]
kind = "ipc"
"""
_GPUS = """
[rollout]
num_workers = {workers}
num_gpus = 1
{lengths}
[learner]
num_ranks = {ranks}
num_gpus = 1
zero_stage = 3

[transfer]
kind = "nccl"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Counts of a manifest's labels, clips and traces."""

    labels: tuple[str, ...]
    """Sorted."""
    splits: Counter[str]
    """Clips of each split."""
    train_traces: int
    """Train clips with a teacher's trace."""


def count_manifest(manifest: Path) -> Counts:
    """Count a manifest's labels, clips and traces. Raises DataError if the manifest cannot be
    read, a row lacks a required column, or there are fewer than two labels."""
    labels: set[str] = set()
    splits: Counter[str] = Counter()
    traces = 0
    known = [split.value for split in Split]
    for where, row in read_rows(manifest):
        if isinstance(row, str):
            raise DataError(f"{manifest} {where}: {row}; make the manifest with `import`")
        label, split = row.get("label"), row.get("split")
        if not isinstance(label, str) or not label or split not in known:
            raise DataError(
                f"{manifest} {where}: label {label!r}, split {split!r}; every row needs a label "
                f"and one of the splits {', '.join(known)}"
            )
        labels.add(label)
        splits[split] += 1
        traces += split == Split.TRAIN and bool(row.get("trace"))
    if len(labels) < 2:
        raise DataError(f"{manifest} has the labels {sorted(labels)}; two are needed to tell apart")
    for split in (Split.TRAIN, Split.TEST):
        if not splits[split]:
            raise DataError(f"{manifest} has no clips with split={split.value!r}; add some")
    return Counts(labels=tuple(sorted(labels)), splits=splits, train_traces=traces)


def starter_recipe(
    counts: Counts, manifest: Path, recipe: Path, model: str, num_gpus: int, context: int | None
) -> str:
    """Text of a first recipe for the file ``recipe``; paths are relative to its folder.

    ``context``: tokens that the model has positions for, if that is known.
    """
    sizes = ", ".join(f"{count} {split}" for split, count in counts.splits.items())
    tables = [
        f'[[labels]]\nname = {_toml(name)}\ndefinition = ""  # one sentence, for the prompt\n'
        for name in counts.labels
    ]
    parts = (
        f"# {len(counts.labels)} labels; clips: {sizes}. Every key: docs/recipes.md",
        f"model = {_toml(_relative(model, recipe))}",
        "",
        *tables,
        _PROMPTS,
        f"[data]\nmanifest = {_toml(_relative(str(manifest), recipe))}",
        "",
        "[video]\nmax_frames = 16  # spread over the clip; fps = 2 samples by time instead",
        _engines(num_gpus, context),
        _coldstart(counts),
        _grpo(counts.splits[Split.TRAIN]),
        _calibrate(counts),
    )
    return "\n".join(parts)


def _engines(num_gpus: int, context: int | None) -> str:
    placed = {0: _CPU, 1: _ONE_GPU}.get(num_gpus, _GPUS)
    placed = placed.format(
        lengths=_lengths(context), workers=num_gpus - num_gpus // 2, ranks=num_gpus // 2
    )
    return placed


def _lengths(context: int | None) -> str:
    """Lines of lengths; none if the defaults fit, else responses get a quarter of the context."""
    default = RolloutConfig()
    if context is None or default.max_model_len <= context:
        return ""
    response = min(default.max_response_length, context // 4)
    prompt = context - response - 1  # one more is drawn by the parity probe
    return f"max_prompt_length = {prompt}\nmax_response_length = {response}\n"


def _coldstart(counts: Counts) -> str:
    if counts.train_traces:
        return f"[coldstart]\nepochs = 5  # over {counts.train_traces} traces\n"
    return "[coldstart]\nepochs = 0  # no train clip has a trace: GRPO starts from the model\n"


def _grpo(num_train: int) -> str:
    groups = min(_MOST_GROUPS, 1 << (num_train.bit_length() - 1))
    least, most = _STEPS
    steps = min(most, max(least, _PASSES * num_train // groups))
    passes = steps * groups / num_train
    return (
        f"[grpo]\ngroups_per_step = {groups}  # clips\n"
        f"num_steps = {steps}  # {passes:.0f} passes over {num_train} clips\n"
        f"save_every = {max(1, min(50, steps // 5))}\n"
    )


def _calibrate(counts: Counts) -> str:
    if counts.splits["cal"]:
        return '[calibrate]\nsplit = "cal"  # clips that GRPO never saw\n'
    return (
        '[calibrate]\nsplit = "train"  # no cal clips; the policy knows these labels, so a cal '
        "split is better\n"
    )


def _relative(path: str, recipe: Path) -> str:
    """A path relative to the recipe's folder; a model's hub id stays as it is."""
    if not Path(path).exists():
        return path
    return os.path.relpath(Path(path).resolve(), recipe.resolve().parent)


def _toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
