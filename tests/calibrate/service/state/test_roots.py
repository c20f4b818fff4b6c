import os
from pathlib import Path

import pytest

from calibrate.service.problems import Problem
from calibrate.service.state.roots import directory_below


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "runs" / "demo").mkdir(parents=True)
    (root / "clip.mp4").write_bytes(b"0")
    (tmp_path / "root-secrets").mkdir()
    (tmp_path / "secrets").mkdir()
    return root


def refusal(root: Path, text: str) -> tuple[int, str]:
    with pytest.raises(Problem) as error:
        directory_below([root], text)
    return error.value.status, error.value.slug


def test_directories_below_a_root_are_given_by_their_real_paths(root: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(root)
    inside = root / "runs" / "demo"
    assert directory_below([tmp_path / "other", root], str(inside)) == inside
    assert directory_below([tmp_path / "link"], f"{tmp_path}/link/runs/../runs/demo/") == inside
    assert directory_below([root], root) == root
    (root / "latest").symlink_to("runs/demo")
    assert directory_below([root], root / "latest") == inside


def test_what_is_outside_is_refused_alike_whether_it_exists_or_not(root: Path, tmp_path: Path):
    (root / "out").symlink_to(tmp_path / "secrets")
    outside = [
        f"{tmp_path}/secrets",
        f"{tmp_path}/nowhere",
        f"{root}-secrets",
        f"{root}/../secrets",
        f"{root}/runs/../../secrets",
        f"{root}/out",
        f"{root}/out/deeper",
        "/proc/self/root" + str(tmp_path / "secrets"),
        "/",
    ]
    assert {refusal(root, text) for text in outside} == {(403, "outside-roots")}
    with pytest.raises(Problem, match="0 are allowed"):
        directory_below([], str(root))


def test_what_is_no_directory_is_not_there(root: Path):
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    for name in ("nowhere", "clip.mp4", "clip.mp4/x", "pipe", "x" * 300):
        assert refusal(root, f"{root}/{name}") == (404, "no-such-directory"), name
    assert refusal(root, f"{root}/loop")[0] in (403, 404)


@pytest.mark.parametrize("text", ["", "runs/demo", "~", "/a\0b", "/" + "x/" * 3000])
def test_a_text_that_is_no_absolute_path_is_invalid(root: Path, text: str):
    assert refusal(root, text) == (422, "invalid-path")
