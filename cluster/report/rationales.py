"""Rationales for the report: how many each filter dropped, and a few of each kind to read.

stages/NAME/done.json, rationales.jsonl -> RationaleRecord
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cluster.config.chain import Chain
from cluster.config.kinds.rationales import RationalesStage
from cluster.run_files import read_result
from rollout.rationales.rationale_file import iter_rationales

_READ = 2000  # texts looked at for examples
_SHOWN = 3  # of those kept, and of each reason
_LONGEST = 2000  # characters of one


@dataclass(frozen=True, slots=True, kw_only=True)
class RationaleExample:
    """A rationale to read."""

    id: str
    label: str
    text: str
    answer: str | None
    reason: str
    """Empty: it is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RationaleRecord:
    """What a finished stage wrote."""

    stage: str
    figures: dict[str, Any]
    """Of done.json."""
    examples: tuple[RationaleExample, ...]
    """The first ones that are kept, and of each reason."""


def rationale_records(path: Path, chain: Chain) -> tuple[RationaleRecord, ...]:
    """Records of the finished stages of the run in ``path`` that wrote rationales or captions.
    Raises DataError if their file cannot be read."""
    writing = (stage.name for stage in chain if isinstance(stage, RationalesStage))
    results = ((name, read_result(path, name)) for name in writing)
    return tuple(
        RationaleRecord(
            stage=name, figures=result["rationales"], examples=tuple(_examples(path, name))
        )
        for name, result in results
        if result is not None
    )


def _examples(path: Path, stage: str) -> Iterator[RationaleExample]:
    shown: Counter[str] = Counter()
    for one in islice(iter_rationales(path, stage), _READ):
        shown[one.reason] += 1
        if shown[one.reason] <= _SHOWN:
            yield RationaleExample(
                id=one.id,
                label=one.label,
                text=one.text[:_LONGEST],
                answer=one.answer,
                reason=one.reason,
            )
