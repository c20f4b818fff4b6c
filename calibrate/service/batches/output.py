"""Output files of a batch, in OpenAI's shape: answers in one, failed requests in the other.

journal of answers (+ lines that were never asked) -> JSON lines, in the order of the input
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calibrate.service.batches.journal import BatchJournal, LineAnswer
from calibrate.service.batches.lines import BatchLine
from wire.strict_json import to_json

_OK = 200
_PAGE = 500


def write_answers(journal: BatchJournal, batch_id: str, path: Path) -> int:
    """Write the answers that are decisions; their number."""
    rows = (_row(a) for a in _answers(journal, batch_id) if a.status_code == _OK)
    return _write(path, rows)


def write_errors(
    journal: BatchJournal, batch_id: str, path: Path, expired: Iterator[BatchLine]
) -> int:
    """Write the requests that failed, and behind them the ``expired`` ones; their number."""

    def rows() -> Iterator[dict[str, Any]]:
        yield from (_row(a) for a in _answers(journal, batch_id) if a.status_code != _OK)
        for line in expired:
            yield {
                "id": _request_name(batch_id, line.number),
                "custom_id": line.custom_id,
                "response": None,
                "error": {
                    "code": "batch_expired",
                    "message": "the batch's 24 hours were over before this request was answered",
                },
            }

    return _write(path, rows())


def request_id_of(batch_id: str, line: int) -> str:
    """Id of a line's request, the same after a restart: its decision is found by it. A client's own
    (X-Request-ID) has no colon."""
    return f"{batch_id}:{line}"


def _row(answer: LineAnswer) -> dict[str, Any]:
    return {
        "id": answer.request_id.replace("batch_", "batch_req_", 1),
        "custom_id": answer.custom_id,
        "response": {
            "status_code": answer.status_code,
            "request_id": answer.request_id,
            "body": answer.body,
        },
        "error": None,
    }


def _request_name(batch_id: str, line: int) -> str:
    return request_id_of(batch_id, line).replace("batch_", "batch_req_", 1)


def _answers(journal: BatchJournal, batch_id: str) -> Iterator[LineAnswer]:
    last = 0
    while page := journal.answers(batch_id, last, _PAGE):
        yield from page
        last = page[-1].line


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(to_json(row) + "\n")
            count += 1
    return count
