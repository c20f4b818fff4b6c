"""File of a stage's rationales: one line each, kept or not, whole or absent.

Rationales -> stages/NAME/rationales.jsonl -> read_rationales -> what a later stage learns from
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from rollout.rationales.rationale import Rationale
from wire.errors import DataError
from wire.whole_file import whole_file

_ADAPTER = TypeAdapter(Rationale)
_NAMES = tuple(field.name for field in fields(Rationale))


def rationale_file(run_dir: Path, stage: str) -> Path:
    """Path of the rationales that a stage of the run in ``run_dir`` wrote."""
    return run_dir / "stages" / stage / "rationales.jsonl"


def write_rationales(path: Path, rationales: Iterable[Rationale]) -> None:
    """Write rationales in their order. They are on the disk when the file has its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, sync=True) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in rationales)


def read_rationales(run_dir: Path, stage: str) -> list[Rationale]:
    """The rationales that a finished stage of the run in ``run_dir`` wrote, kept or not, in the
    order of its clips. Raises DataError if they are not there or cannot be read."""
    return list(iter_rationales(run_dir, stage))


def iter_rationales(run_dir: Path, stage: str) -> Iterator[Rationale]:
    """:func:`read_rationales`, one after another."""
    path = rationale_file(run_dir, stage)
    try:
        with path.open("rb") as file:
            yield from map(_ADAPTER.validate_json, file)
    except OSError as error:
        raise DataError(
            f"cannot read the rationales of stage {stage} in {path} ({error.strerror}); run that "
            "stage first"
        ) from error
    except ValidationError as error:
        raise DataError(
            f"{path} holds a line that is no rationale with {', '.join(_NAMES)} "
            f"({error.errors()[0]['msg']}); delete the file and run stage {stage} again"
        ) from error
