"""Small archives with all that rows can hold, in Parquet files and a journal. (No test file.)"""

from pathlib import Path

from tests.groups import UNSCORED, make_completion, make_group, make_sample
from wire.archive.archive import Archive
from wire.types import (
    FinishReason,
    PolicyVersion,
    Prompt,
    Purpose,
    Score,
    Split,
    Trace,
    TraceGroup,
)

LABELS = ("undo", "redo")
FIRST_ID, JOURNALED_ID, FAILED_ID = "grpo/train/0", "grpo/train/7", "grpo/train/failed"


def make_groups(num_groups: int = 8, num_tokens: int = 3) -> list[TraceGroup]:
    """Groups of two traces, one not scored, and a group whose clip could not be decoded."""
    groups = [_group(number, num_tokens) for number in range(num_groups)]
    failed = make_group(group_id=FAILED_ID, sample=make_sample(LABELS[0], id="bad"))
    return [failed, *groups]


def write_archive(run: Path, groups: list[TraceGroup] | None = None) -> list[TraceGroup]:
    """Write groups to the archive of a run directory: two Parquet files, and the last group in the
    journal. Returns them in the order of reading."""
    groups = make_groups() if groups is None else groups
    half = len(groups) // 2
    with Archive(run / "archive", 0) as archive:
        for step, some in ((1, groups[:half]), (2, groups[half:-1])):
            for group in some:
                archive.append(group)
            archive.compact(step)
        archive.append(groups[-1])
    return groups


def _group(number: int, num_tokens: int) -> TraceGroup:
    version = PolicyVersion(attempt=0, step=1 + number // 4)
    return make_group(
        _trace(f'<answer>up {number}</answer>\n"a", b', 0.5 * number, num_tokens, version),
        Trace(
            completion=make_completion(
                "open the door", num_tokens=2, finish=FinishReason.LENGTH, version=version
            ),
            outcome=UNSCORED,
        ),
        group_id=f"grpo/train/{number}",
        sample=make_sample(
            LABELS[number % 2],
            id=f"clip-{number}",
            split=Split.CAL if number % 4 == 3 else Split.TRAIN,
            extra={"look": number, "seen": number > 3},
        ),
        purpose=Purpose.CALIBRATION if number % 4 == 3 else Purpose.TRAIN,
        policy_version=version,
        prompt=Prompt(token_ids=(1, 2, 3), clip_key="k", fingerprint="f" * 16, version="1"),
    )


def _trace(text: str, reward: float, num_tokens: int, version: PolicyVersion) -> Trace:
    completion = make_completion(
        text, num_tokens=num_tokens, version=version, logprobs_temperature=0.7
    )
    parts = {"accuracy": reward, "format": 1.0}
    return Trace(completion=completion, outcome=Score(total=reward, parts=parts))
