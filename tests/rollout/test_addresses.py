from pathlib import Path

import pytest

from rollout.addresses import is_remote, local_path


def test_what_is_remote() -> None:
    assert all(map(is_remote, ["s3://b/k", "HTTPS://h/x", "hf://datasets/o/n/a.mp4"]))
    assert not any(map(is_remote, ["file:///x", "FILE:///x", "/x", "C:\\x", "C:/x", "a://"]))


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("file:///data/my clip.mp4", "/data/my clip.mp4"),
        ("file://localhost/x", "/x"),
        ("FILE:///data/a%20b.mp4", "/data/a b.mp4"),
        ("file:///data/100%.mp4", "/data/100%.mp4"),
        ("clips/a%20b.mp4", "clips/a%20b.mp4"),
        ("file:///" + "%41" * 9000, "/" + "A" * 9000),
    ],
)
def test_a_file_url_is_a_path(address: str, path: str) -> None:
    assert local_path(address) == path


def test_a_percent_sign_in_the_name_of_a_file_stays(tmp_path: Path) -> None:
    (tmp_path / "a%20b.mp4").touch()
    assert local_path(f"file://{tmp_path}/a%20b.mp4") == f"{tmp_path}/a%20b.mp4"
