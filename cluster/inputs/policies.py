"""Policies of an archive: which versions name the weights of which model.

    stage's model -> note_policy -> archive/policies.jsonl -> versions_of(model)

An archive that was moved away from its run tells by these whether a model wrote its traces.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.inputs.from_run import weights_hash
from wire.errors import DataError
from wire.types import PolicyVersion

POLICIES_FILE = "policies.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyNote:
    """Note of a version, and of the weights that it names.

    Example:
        PolicyNote(version="0.82", stage="grpo", weights_sha256="5f0c...")
    """

    version: str
    stage: str
    """That left the model; ``base``: the model that the run started from."""
    weights_sha256: str


def note_policy(archive: Path, version: PolicyVersion, stage: str, model: Path) -> str:
    """Note that a version names a model's weights, once. Reads all of the weights; returns their
    hash."""
    note = PolicyNote(version=str(version), stage=stage, weights_sha256=weights_hash(model))
    if note not in list(read_policies(archive)):
        archive.mkdir(parents=True, exist_ok=True)
        with (archive / POLICIES_FILE).open("a+b") as file:
            file.seek(0, 2)
            if file.tell() and file.seek(-1, 2) >= 0 and file.read() != b"\n":
                file.write(b"\n")  # after a line that a crash has cut
            file.write((json.dumps(asdict(note)) + "\n").encode())
    return note.weights_sha256


def read_policies(archive: Path) -> Iterator[PolicyNote]:
    """Notes of an archive; none of one that earlier versions wrote. A line that a crash has cut is
    passed over."""
    file = archive / POLICIES_FILE
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {file}: {error}; restore it from a copy") from error
    for line in lines:
        try:
            yield PolicyNote(**json.loads(line))
        except (ValueError, TypeError):
            continue


def versions_of(archive: Path, weights_sha256: str) -> frozenset[PolicyVersion]:
    """Versions that name weights with this hash; of one version the newest note counts."""
    newest = {note.version: note.weights_sha256 for note in read_policies(archive)}
    return frozenset(
        PolicyVersion.parse(version) for version, known in newest.items() if known == weights_sha256
    )
