from pathlib import Path

import pytest

from calibrate.service.batches import files, journal
from calibrate.service.batches.files import BatchFiles, insert_file
from calibrate.service.problems import Problem
from calibrate.service.state import audit
from calibrate.service.state.audit import Audit
from calibrate.service.state.database import Database
from tests.calibrate.service.batches.line_files import ADMIN, ANN, BEN, lines, stream


@pytest.fixture
def database(tmp_path: Path):
    opened = Database.open(tmp_path / "s.sqlite", [audit.SCHEMA, files.SCHEMA, journal.SCHEMA])
    yield opened
    opened.close()


@pytest.fixture
def kept(database: Database, tmp_path: Path) -> BatchFiles:
    return BatchFiles(database, Audit(database), tmp_path / "files", max_bytes=10_000)


async def test_an_uploaded_file_is_kept_byte_for_byte_under_a_plain_name(kept: BatchFiles):
    record = await kept.upload(stream(lines(3)), "../../etc/\ud800\\pass.jsonl", ANN)
    assert kept.path_of(record.id).read_bytes() == lines(3)
    assert record.as_json() == {
        "id": record.id,
        "object": "file",
        "bytes": len(lines(3)),
        "created_at": record.created_at,
        "filename": "pass.jsonl",
        "purpose": "batch",
        "status": "processed",
        "expires_at": None,
    }
    assert kept.get(record.id, ANN) == record


@pytest.mark.parametrize(("content", "status"), [(lines(200), 413), (b"{}\n", 422)])
async def test_a_refused_file_leaves_nothing(
    kept: BatchFiles, tmp_path: Path, content: bytes, status: int
):
    with pytest.raises(Problem) as raised:
        await kept.upload(stream(content), "b.jsonl", ANN)
    assert raised.value.status == status
    assert not list((tmp_path / "files").iterdir())
    assert kept.page(ADMIN, after=None, limit=9, purpose=None) == ([], False)


async def test_a_file_is_seen_by_its_owner_and_by_an_admin_alone(kept: BatchFiles):
    record = await kept.upload(stream(lines(1)), "b.jsonl", ANN)
    assert kept.get(record.id, ADMIN) == record
    with pytest.raises(Problem, match="no file"):
        kept.get(record.id, BEN)
    with pytest.raises(Problem, match="no file"):
        kept.delete(record.id, BEN)
    assert kept.page(BEN, after=None, limit=9, purpose=None) == ([], False)


async def test_pages_go_from_the_newest_to_the_oldest(kept: BatchFiles):
    ids = [(await kept.upload(stream(lines(1)), f"{n}", ANN)).id for n in range(5)]
    first, more = kept.page(ANN, after=None, limit=3, purpose="batch")
    rest, end = kept.page(ANN, after=first[-1].id, limit=3, purpose=None)
    assert [record.id for record in first + rest] == ids[::-1]
    assert (more, end) == (True, False)
    assert kept.page(ANN, after=None, limit=3, purpose="batch_output") == ([], False)
    with pytest.raises(Problem, match="no file 'nothing'"):
        kept.page(ANN, after="nothing", limit=3, purpose=None)
    with pytest.raises(Problem, match="there is no file"):
        kept.page(BEN, after=first[-1].id, limit=3, purpose=None)


async def test_a_start_removes_what_a_kill_left_and_nothing_else(kept: BatchFiles, tmp_path: Path):
    record = await kept.upload(stream(lines(1)), "b.jsonl", ANN)
    (tmp_path / "files/file-1.partial").write_bytes(b"half")
    (tmp_path / "files/file-2").write_bytes(b"whole, but nobody was told")
    kept.remove_left_over()
    assert [path.name for path in (tmp_path / "files").iterdir()] == [record.id]


async def test_a_file_that_a_batch_reads_is_not_deleted(kept: BatchFiles, database: Database):
    record = await kept.upload(stream(lines(1)), "b.jsonl", ANN)
    batches = journal.BatchJournal(database, Audit(database))
    batch = batches.insert(record, ANN, None, ("file-o", "file-e"))
    with pytest.raises(Problem, match=batch.id) as raised:
        kept.delete(record.id, ANN)
    assert raised.value.status == 409
    batches.end(batch.id, "cancelled")
    kept.delete(record.id, ANN)
    assert not kept.path_of(record.id).exists()
    actions = [(row.actor, row.action) for row in Audit(database).page(limit=9)]
    assert sorted(actions) == [("Ann", "batch.created"), ("Ann", "file.deleted")]


async def test_an_output_written_again_after_a_kill_is_there_once(
    kept: BatchFiles, database: Database
):
    for words in ("half", "whole"):
        text = words + "\n"
        record = kept.write_output("file-o", "o.jsonl", ANN.token_id, lambda p, t=text: _put(p, t))
    with database.write() as connection:
        insert_file(connection, record)
    assert kept.path_of("file-o").read_text() == "whole\n"
    assert kept.get("file-o", ANN).as_json()["purpose"] == "batch_output"


def _put(path: Path, text: str) -> int:
    path.write_text(text)
    return 1
