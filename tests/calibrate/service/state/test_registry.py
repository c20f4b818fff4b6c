import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from calibrate.classifier import load_classifier
from calibrate.service.problems import Problem
from calibrate.service.state import audit, classifier_folders, registry
from calibrate.service.state.audit import Audit
from calibrate.service.state.database import Database
from calibrate.service.state.registry import Registry
from tests.calibrate.classifiers import (
    make_description,
    measured_calibration,
    measured_evaluation,
    publish,
)
from wire.errors import DataError, DiskFull

Publish = Callable[..., Path]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def database(state: Path) -> Iterator[Database]:
    state.mkdir()
    database = Database.open(state / "service.sqlite", [audit.SCHEMA, registry.SCHEMA])
    yield database
    database.close()


@pytest.fixture
def classifiers(database: Database, state: Path) -> Registry:
    return open_registry(database, state)


@pytest.fixture
def published(tmp_path: Path) -> Publish:
    """Publishes a classifier of its own for each name."""

    def one(name: str = "calibrated", **changes: Any) -> Path:
        out = tmp_path / "published" / name
        description = make_description(name=name, **changes.pop("described", {}))
        return publish(tmp_path, out=out, description=description, **changes).path

    return one


def open_registry(database: Database, state: Path) -> Registry:
    return Registry(database, Audit(database), state / "classifiers")


def register(classifiers: Registry, *directories: Path) -> list[int]:
    return [
        classifiers.register(directory, source="test", by="ada").version
        for directory in directories
    ]


def actions(database: Database) -> list[str]:
    return [row.action for row in reversed(Audit(database).page(limit=100))]


def test_a_classifier_is_registered_whole_and_described(
    classifiers: Registry, published: Publish, state: Path
):
    source = published(calibration=measured_calibration(), evaluation=measured_evaluation())
    one = classifiers.register(source, source="a test", by="ada")
    assert (one.version, one.name, one.method) == (1, "calibrated", "policy+verdict")
    assert one.path == state / "classifiers" / "1"
    assert one.hash == load_classifier(source).version == load_classifier(one.path).version
    assert (one.source, one.created_by, one.policy_version) == ("a test", "ada", "0.82")
    assert one.label_names == ("abnormal", "normal")
    assert one.calibration == measured_calibration()
    headline = one.figures["headline"]
    assert headline["accuracy"] == measured_evaluation().accuracy
    assert headline["set_coverage"] == measured_calibration().coverage[0].measured.share
    assert set(one.as_json(whole=False)["figures"]) == {"headline"}
    assert classifiers.get(1) is one is classifiers.get("1"), "its calibration is read once"
    assert (one.path / "README.md").is_file()


def test_weights_are_linked_and_small_files_copied(classifiers: Registry, published: Publish):
    source = published()
    (version,) = register(classifiers, source)
    taken = classifiers.get(version).path
    for name, linked in [
        ("policy/model.safetensors", True),
        ("verdict/model.safetensors", True),
        ("policy/config.json", False),
        ("calibration.json", False),
    ]:
        assert (source / name).samefile(taken / name) is linked, name
    shutil.rmtree(source)
    load_classifier(taken)


def test_weights_that_somebody_changes_in_place_are_found_before_their_next_use(
    classifiers: Registry, published: Publish
):
    source = published()
    (version,) = register(classifiers, source)
    taken = classifiers.get(version).path
    load_classifier(taken, check_weights="if_newer")
    weights = source / "policy/model.safetensors"
    written = (taken / "classifier.json").stat().st_mtime_ns + 1
    weights.write_bytes(b"pol!cy")
    os.utime(weights, ns=(written, written))
    load_classifier(taken, check_weights=False)
    with pytest.raises(DataError, match="other bytes"):
        load_classifier(taken, check_weights="if_newer")
    weights.write_bytes(b"policy")
    load_classifier(taken, check_weights="if_newer")


def test_weights_on_another_disk_are_copied(
    classifiers: Registry, published: Publish, monkeypatch: pytest.MonkeyPatch
):
    def other_disk(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(classifier_folders.os, "link", other_disk)
    source = published()
    (version,) = register(classifiers, source)
    weights = classifiers.get(version).path / "policy/model.safetensors"
    assert weights.read_bytes() == b"policy"
    assert weights.stat().st_nlink == 1


def test_the_same_classifier_has_one_version(
    database: Database, classifiers: Registry, published: Publish, tmp_path: Path
):
    source = published()
    copy = shutil.copytree(source, tmp_path / "copy")
    assert register(classifiers, source, copy, published("other"), source) == [1, 1, 2, 1]
    assert actions(database) == ["classifier.registered"] * 2
    assert [one.version for one in classifiers.list()] == [1, 2]


def test_nothing_is_left_of_a_damaged_classifier(
    database: Database, classifiers: Registry, published: Publish, state: Path
):
    source = published()
    weights = source / "policy/model.safetensors"
    weights.unlink()
    weights.write_bytes(b"pol!cy")
    with pytest.raises(DataError, match="other bytes"):
        register(classifiers, source)
    with pytest.raises(DataError, match="no folder"):
        register(classifiers, source / "nowhere")
    assert list((state / "classifiers").iterdir()) == []
    assert classifiers.list() == ()
    assert actions(database) == []


@pytest.mark.parametrize("name", ["calibration.json", "policy/config.json", "policy"])
def test_symbolic_links_in_a_classifier_are_refused(
    classifiers: Registry, published: Publish, tmp_path: Path, name: str
):
    source = published()
    moved = (source / name).rename(tmp_path / "elsewhere")
    (source / name).symlink_to(moved)
    with pytest.raises(DataError, match="symbolic link"):
        register(classifiers, source)


def test_nothing_is_left_where_the_disk_is_full(
    classifiers: Registry, published: Publish, state: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    source = published()
    with monkeypatch.context() as patched:
        patched.setattr(classifier_folders.shutil, "copyfile", full)
        with pytest.raises(DiskFull):
            register(classifiers, source)
    assert list((state / "classifiers").iterdir()) == []
    assert register(classifiers, source) == [1]


def test_nothing_is_left_where_the_row_cannot_be_written(
    database: Database, classifiers: Registry, published: Publish, state: Path
):
    with database.write() as connection:
        connection.execute(
            "CREATE TEMP TRIGGER no_rows BEFORE INSERT ON main.classifiers "
            "BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    with pytest.raises(sqlite3.IntegrityError):
        register(classifiers, published())
    assert list((state / "classifiers").iterdir()) == []
    with database.write() as connection:
        connection.execute("DROP TRIGGER no_rows")
    assert register(classifiers, published("again")) == [1]


def test_a_start_removes_what_a_kill_has_left(
    database: Database, classifiers: Registry, published: Publish, state: Path
):
    register(classifiers, published())
    folder = state / "classifiers"
    (folder / "2.partial" / "policy").mkdir(parents=True)
    shutil.copytree(folder / "1", folder / "2")  # renamed, and killed before its row
    (folder / "notes.txt").write_text("not ours")
    again = open_registry(database, state)
    assert sorted(place.name for place in folder.iterdir()) == ["1", "notes.txt"]
    assert register(again, published("other")) == [2]


def test_versions_and_their_rows_are_immutable(
    database: Database, classifiers: Registry, published: Publish
):
    register(classifiers, published())
    for statement in ("UPDATE classifiers SET hash = 'x'", "DELETE FROM classifiers"):
        with (
            pytest.raises(sqlite3.IntegrityError, match="immutable"),
            database.write() as connection,
        ):
            connection.execute(statement)


def test_promoting_moves_the_champion_and_keeps_the_previous_one(
    database: Database, classifiers: Registry, published: Publish
):
    register(classifiers, published("a"), published("b"))
    first = classifiers.promote(1, by="ada", expected_champion=None, reason="first")
    assert (first.champion, first.previous, first.challenger) == (1, None, None)
    classifiers.set_challenger(2, by="watch")
    assert classifiers.aliases() == {"champion": 1, "challenger": 2}
    second = classifiers.promote(2, by="ada", expected_champion=1, reason="better")
    assert (second.champion, second.previous, second.challenger) == (2, 1, None)
    assert classifiers.aliases() == {"champion": 2, "previous": 1}
    assert classifiers.get("champion").version == 2
    row = Audit(database).page(limit=1)[0]
    assert (row.id, row.actor, row.action, row.subject) == (
        second.audit_id,
        "ada",
        "classifier.promoted",
        "classifiers/2",
    )
    assert row.detail == {
        "reason": "better",
        "before": {"champion": 1, "challenger": 2},
        "after": {"champion": 2, "previous": 1},
    }


def test_promoting_the_champion_again_changes_nothing(
    database: Database, classifiers: Registry, published: Publish
):
    register(classifiers, published())
    classifiers.promote(1, by="ada", expected_champion=None, reason="first")
    again = classifiers.promote(1, by="ada", expected_champion=9, reason="sent twice")
    assert (again.champion, again.previous, again.audit_id) == (1, None, None)
    assert actions(database) == ["classifier.registered", "classifier.promoted"]


def test_a_promotion_that_another_one_overtook_is_refused(
    classifiers: Registry, published: Publish
):
    register(classifiers, published("a"), published("b"), published("c"))
    classifiers.promote(1, by="ada", expected_champion=None, reason="")
    classifiers.promote(2, by="ada", expected_champion=1, reason="")
    with pytest.raises(Problem) as error:
        classifiers.promote(3, by="bob", expected_champion=1, reason="")
    assert (error.value.status, error.value.extra) == (409, {"champion": 2})
    assert classifiers.aliases() == {"champion": 2, "previous": 1}


def test_a_roll_back_exchanges_champion_and_previous(
    database: Database, classifiers: Registry, published: Publish
):
    register(classifiers, published("a"), published("b"))
    with pytest.raises(Problem) as error:
        classifiers.roll_back(by="ada", reason="")
    assert error.value.status == 409
    classifiers.promote(1, by="ada", expected_champion=None, reason="")
    classifiers.promote(2, by="ada", expected_champion=1, reason="")
    classifiers.set_challenger(1, by="ada")
    back = classifiers.roll_back(by="bob", reason="worse at night")
    assert (back.champion, back.previous, back.challenger) == (1, 2, None)
    assert actions(database)[-1] == "classifier.rolled_back"
    with pytest.raises(Problem) as error:
        classifiers.roll_back(by="bob", reason="sent twice", expected_champion=2)
    assert (error.value.status, error.value.extra) == (409, {"champion": 1})
    assert classifiers.roll_back(by="bob", reason="").champion == 2


def test_the_challenger_is_never_the_champion(
    database: Database, classifiers: Registry, published: Publish
):
    register(classifiers, published("a"), published("b"))
    classifiers.promote(1, by="ada", expected_champion=None, reason="")
    with pytest.raises(Problem) as error:
        classifiers.set_challenger(1, by="ada")
    assert error.value.status == 409
    for _ in range(2):
        assert classifiers.set_challenger(2, by="ada") == {"champion": 1, "challenger": 2}
    assert classifiers.set_challenger(None, by="ada") == {"champion": 1}
    assert classifiers.set_challenger(None, by="ada") == {"champion": 1}
    assert actions(database)[-2:] == ["challenger.proposed", "challenger.removed"]
    assert Audit(database).page(limit=1)[0].subject == "classifiers/2"


def test_changes_at_the_same_time_take_turns(
    database: Database, classifiers: Registry, published: Publish
):
    sources = [published(name) for name in "abc"]
    with ThreadPoolExecutor(6) as pool:
        versions = pool.map(lambda one: register(classifiers, one)[0], sources * 3)
        assert sorted(versions) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
        classifiers.promote(1, by="ada", expected_champion=None, reason="")

        def change(number: int) -> None:
            if number % 2:
                classifiers.promote(1 + number % 3, by="ada", expected_champion=None, reason="")
            else:
                classifiers.set_challenger(None, by="ada")

        for one in [pool.submit(change, number) for number in range(40)]:
            one.result(60)
    assert Audit(database).verify() is None
    rows = [row.detail for row in reversed(Audit(database).page(limit=100))]
    moves = [detail for detail in rows if "after" in detail]
    assert [move["before"] for move in moves[1:]] == [move["after"] for move in moves[:-1]]
    assert moves[-1]["after"] == classifiers.aliases()


@pytest.mark.parametrize(
    "ref", ["champion", "challenger", 0, 2, -1, "٣", "1.0", "", "x\x00", 2**63, 10**40, "best"]
)
def test_what_is_not_registered_is_not_there(
    classifiers: Registry, published: Publish, ref: str | int
):
    register(classifiers, published())
    with pytest.raises(Problem) as error:
        classifiers.get(ref)
    assert error.value.status == 404
    if isinstance(ref, int):
        with pytest.raises(Problem):
            classifiers.promote(ref, by="ada", expected_champion=None, reason="")


def test_a_registered_folder_that_was_taken_away_is_named(
    classifiers: Registry, published: Publish
):
    register(classifiers, published())
    one = classifiers.get(1)
    shutil.rmtree(one.path)
    with pytest.raises(DataError, match=r"state directory was changed"):
        _ = one.calibration
