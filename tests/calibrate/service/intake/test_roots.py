"""A path leads to a regular file below a root, or is refused; no link is followed."""

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from calibrate.service.intake.roots import Roots
from calibrate.service.problems import Problem
from wire.errors import ConfigError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/a").mkdir(parents=True)
    (tmp_path / "root/a/clip.mp4").write_bytes(b"inside")
    (tmp_path / "secret.mp4").write_bytes(b"outside")
    return tmp_path / "root"


@pytest.fixture
def roots(root: Path, tmp_path: Path) -> Roots:
    return Roots([root], tmp_path / "aliases", closed=tmp_path / "state")


def refusal(roots: Roots, path: str | Path) -> tuple[int, str]:
    with pytest.raises(Problem) as caught:
        roots.open(str(path))
    return caught.value.status, caught.value.slug


def test_a_file_below_a_root_is_opened_and_its_alias_leads_to_it(roots: Roots, root: Path) -> None:
    file = roots.open(str(root / "a/clip.mp4"))
    assert file.alias.suffix == ".mp4"
    assert file.alias.read_bytes() == b"inside"
    again = roots.open("a/clip.mp4")
    assert again.alias.read_bytes() == b"inside"


def test_another_process_reads_the_checked_file_though_another_took_its_place(
    roots: Roots, root: Path, tmp_path: Path
) -> None:
    file = roots.open("a/clip.mp4")
    (tmp_path / "secret.mp4").rename(root / "a/clip.mp4")
    read = f"import pathlib; print(pathlib.Path({str(file.alias)!r}).read_text())"
    there = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == "inside"


def test_the_file_is_closed_and_its_alias_gone_with_the_last_reference(roots: Roots) -> None:
    file = roots.open("a/clip.mp4")
    alias, descriptor = file.alias, file.descriptor
    del file
    assert not alias.is_symlink()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def open_files() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def test_a_refused_path_leaves_no_file_open(roots: Roots, root: Path) -> None:
    os.mkfifo(root / "pipe")
    before = open_files()
    for path in ("pipe", "a", "none.mp4", "../secret.mp4", "a/clip.mp4/x"):
        refusal(roots, path)
    assert open_files() == before


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/proc/self/environ",
        "../secret.mp4",
        "a/../../secret.mp4",
        "a/../a/clip.mp4",
    ],
)
def test_a_path_outside_of_the_roots_is_403_whether_it_is_there_or_not(
    roots: Roots, path: str
) -> None:
    assert refusal(roots, path) == (403, "path-refused")
    assert refusal(roots, f"{path}-that-is-not-there") == (403, "path-refused")


def test_a_sibling_whose_name_begins_like_the_root_is_outside(roots: Roots, root: Path) -> None:
    other = root.with_name("rooted")
    other.mkdir()
    (other / "clip.mp4").write_bytes(b"x")
    assert refusal(roots, other / "clip.mp4") == (403, "path-refused")


@pytest.mark.parametrize("path", ["", "a\0b", "clip\n.mp4", "x" * 5000, "\udcff"])
def test_what_is_no_path_is_422(roots: Roots, path: str) -> None:
    assert refusal(roots, path) == (422, "bad-path")


def test_a_name_of_300_letters_is_refused_and_not_an_error_of_ours(roots: Roots) -> None:
    assert refusal(roots, "x" * 300) == (403, "path-refused")


def test_no_link_is_followed_neither_at_the_end_nor_on_the_way(
    roots: Roots, root: Path, tmp_path: Path
) -> None:
    (root / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "inner.mp4").symlink_to(root / "a/clip.mp4")
    (root / "up").symlink_to(tmp_path)
    (root / "dangling.mp4").symlink_to(root / "none")
    for path in ("link.mp4", "inner.mp4", "up/secret.mp4", "dangling.mp4"):
        assert refusal(roots, path) == (403, "path-refused")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [_pipe, _socket, _folder])
def test_what_is_no_regular_file_is_403_and_nothing_waits_for_it(
    roots: Roots, root: Path, make: Callable[[Path], None]
) -> None:
    make(root / "odd")
    assert refusal(roots, "odd") == (403, "path-refused")


def test_a_file_that_is_not_there_is_404(roots: Roots, root: Path) -> None:
    assert refusal(roots, root / "a/none.mp4") == (404, "no-such-clip")
    assert refusal(roots, "none/none.mp4") == (404, "no-such-clip")


def test_without_roots_no_path_is_read(tmp_path: Path) -> None:
    roots = Roots([], tmp_path / "aliases", closed=tmp_path / "state")
    assert refusal(roots, "/etc/passwd") == (403, "path-refused")


def test_a_root_that_is_a_link_is_known_under_both_names(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    roots = Roots([link], tmp_path / "aliases", closed=tmp_path / "state")
    for base in (link, root):
        assert roots.open(str(base / "a/clip.mp4")).alias.read_bytes() == b"inside"


@pytest.mark.parametrize("folder", ["/", "/proc", "/proc/self", "/dev", "/sys", "/none"])
def test_a_root_of_the_systems_files_or_of_none_is_refused(tmp_path: Path, folder: str) -> None:
    with pytest.raises(ConfigError, match="allowed root"):
        Roots([Path(folder)], tmp_path / "aliases", closed=tmp_path / "state")


def test_a_changed_file_has_another_identity(roots: Roots, root: Path) -> None:
    file = roots.open("a/clip.mp4")
    before = file.identity
    with (root / "a/clip.mp4").open("r+b") as again:
        again.write(b"INSIDE")
    assert file.identity != before


def test_aliases_of_a_killed_process_are_removed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "aliases").mkdir()
    (tmp_path / "aliases/7.mp4").symlink_to("/proc/1/fd/0")
    Roots([root], tmp_path / "aliases", closed=tmp_path / "state")
    assert list((tmp_path / "aliases").iterdir()) == []


def test_the_services_own_files_are_no_clips_though_they_are_below_a_root(
    root: Path, tmp_path: Path
) -> None:
    (root / "state").mkdir()
    (root / "state/service.sqlite").write_bytes(b"x")
    (root / "statement.mp4").write_bytes(b"x")
    roots = Roots([root], root / "state/open", closed=root / "state")
    for path in ("state/service.sqlite", root / "state/service.sqlite", "state"):
        assert refusal(roots, path) == (403, "path-refused")
    assert roots.open("statement.mp4")


def test_a_folder_that_becomes_a_link_at_any_moment_leads_nowhere_else(
    roots: Roots, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/clip.mp4").write_bytes(b"outside")
    (root / "link").symlink_to(tmp_path / "outside")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for old, new in (("a", "kept"), ("link", "a"), ("a", "link"), ("kept", "a")):
                (root / old).rename(root / new)

    read: Counter[bytes | int] = Counter()
    with ThreadPoolExecutor(1) as threads:
        swapping = threads.submit(swap)
        try:
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                try:
                    file = roots.open("a/clip.mp4")
                    read[file.alias.read_bytes()] += 1
                except Problem as problem:
                    read[problem.status] += 1
        finally:
            stop.set()
        swapping.result()
    assert set(read) <= {b"inside", 403, 404}
    assert read[b"inside"] > 0
    assert read[403] > 0


def test_a_disk_that_fails_is_no_refusal(roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> int:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(OSError, match="Stale file handle"):
        roots.open("a/clip.mp4")
