from pathlib import Path

import pytest

from cluster.pool.desired_workers import WORKERS_FILE, DesiredWorkers, ask_for_workers


def test_the_last_number_that_was_asked_for_is_read(tmp_path: Path):
    desired = DesiredWorkers(tmp_path)
    assert desired.read() is None
    for number in (4, 20):
        ask_for_workers(tmp_path, number)
        assert desired.read() == number
    assert [file.name for file in (tmp_path / "control").iterdir()] == ["workers.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"workers": 0}', '{"workers": true}', '{"workers": "4"}', "{}", "\xff"]
)
def test_a_file_of_another_shape_asks_for_nothing_and_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
):
    (tmp_path / "control").mkdir()
    (tmp_path / WORKERS_FILE).write_bytes(text.encode("latin-1"))
    desired = DesiredWorkers(tmp_path)
    assert [desired.read(), desired.read()] == [None, None]
    (record,) = caplog.records
    assert "deepintuit scale" in record.getMessage()
