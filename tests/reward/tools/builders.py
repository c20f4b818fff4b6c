"""Runs with an archive, recipes and plugin files for the tests of the reward tools."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from cluster.config.recipe import RunConfig
from cluster.run_dir import RunDir
from tests.groups import make_completion, make_sample
from tests.groups import make_group as group_of
from wire.archive.archive import Archive
from wire.config import validate
from wire.types import Failure, FailureKind, PolicyVersion, Purpose, Score, Trace, TraceGroup

LABELS = [{"name": "fall"}, {"name": "walk"}]
MANIFEST = """\
{"id": "a", "video": "a.mp4", "label": "fall", "split": "train", "fps": 2, "spans": [[1, 2]]}
{"id": "b", "video": "b.mp4", "label": "walk", "split": "train", "fps": 4}
"""


def make_trace(text: str, reward: float | None) -> Trace:
    broken = Failure(kind=FailureKind.REWARD, culprit="accuracy", reason="it broke")
    outcome = broken if reward is None else Score(total=reward, parts={"accuracy": reward})
    return Trace(completion=make_completion(text, num_tokens=2), outcome=outcome)


def make_group(
    number: int,
    traces: Sequence[tuple[str, float | None]],
    *,
    purpose: Purpose = Purpose.TRAIN,
    attempt: int = 0,
    label: str = "",
) -> TraceGroup:
    """Even groups are of the label fall, odd ones of walk."""
    sample = make_sample(
        label or ("fall", "walk")[number % 2],
        id=f"clip-{number}",
        video=f"{number}.mp4",
        extra={"fps": 2},
    )
    return group_of(
        *(make_trace(text, reward) for text, reward in traces),
        group_id=f"grpo/{number}",
        sample=sample,
        purpose=purpose,
        policy_version=PolicyVersion(attempt=attempt, step=number // 8),
    )


def make_run(folder: Path, groups: Sequence[TraceGroup], name: str = "run") -> Path:
    """A run directory; half of the groups are compacted, half still in the journal."""
    values = {"model": "model", "labels": LABELS, "data": {"manifest": "m.jsonl"}}
    config = validate(RunConfig, values, "recipe")
    run_dir = RunDir.open(folder / name, config, resume=False, overwrite=False)
    with Archive(run_dir.archive, 0) as archive:
        for number, group in enumerate(groups):
            archive.append(group)
            if number + 1 == len(groups) // 2:
                archive.compact(number)
    run_dir.close()
    return run_dir.path


def write_recipe(folder: Path, *terms: str, name: str = "new", more: str = "") -> Path:
    """A recipe over MANIFEST with these terms, each the inside of a TOML table."""
    (folder / "m.jsonl").write_text(MANIFEST)
    for name_of_clip in ("a.mp4", "b.mp4"):
        (folder / name_of_clip).touch()
    path = folder / f"{name}.toml"
    listed = "".join(f"[[reward.terms]]\n{term}\n" for term in terms)
    path.write_text(
        'model = "model"\nlabels = [{name = "fall"}, {name = "walk"}]\n'
        f'data = {{manifest = "m.jsonl"}}\n{more}\n{listed}'
    )
    return path


def write_plugin(folder: Path, source: str, name: str = "plugin") -> Path:
    path = folder / f"{name}.py"
    path.write_text(source)
    return path


def contents(folder: Path) -> dict[str, str]:
    """Every file below the folder -> a hash of its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
