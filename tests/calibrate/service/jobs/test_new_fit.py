"""Fits that are refused before they are queued."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from calibrate.service.config import ServiceConfig
from calibrate.service.jobs.new_fit import NewFit, allowed_path, refuse_mixed, source_path
from calibrate.service.problems import Problem


@pytest.fixture
def config(tmp_path: Path) -> ServiceConfig:
    for name in (
        "inside/run",
        "inside/empty",
        "inside/bare/traces",
        "outside/run",
        "named/archive",
    ):
        (tmp_path / name).mkdir(parents=True)
    for run in ("inside/run", "outside/run", "named"):
        (tmp_path / run / "run.json").write_text("{}")
    (tmp_path / "inside/link").symlink_to(tmp_path / "outside/run")
    return ServiceConfig(
        state=tmp_path / "state",
        roots=(tmp_path / "inside",),
        archives={"mine": tmp_path / "named/archive"},
    )


def refusal(source: str, config: ServiceConfig, **values: Any) -> tuple[int, str]:
    with pytest.raises(Problem) as caught:
        source_path(NewFit(source=source, **values), config)
    return caught.value.status, caught.value.slug


def test_a_source_is_an_archive_s_name_or_a_path_under_a_root(
    tmp_path: Path, config: ServiceConfig
):
    assert source_path(NewFit(source="mine"), config) == tmp_path / "named/archive"
    for name in ("run", "bare", "empty/../run"):
        given = str(tmp_path / "inside" / name)
        assert source_path(NewFit(source=given), config) == Path(given).resolve()


def test_what_lies_outside_is_refused_whether_it_is_there_or_not(
    tmp_path: Path, config: ServiceConfig
):
    inside = tmp_path / "inside"
    for given in (
        tmp_path / "outside/run",
        tmp_path / "outside/nothing",
        inside / "../outside/run",
        inside / "link",
        Path("/proc/self/root"),
        Path("/" + "x" * 4000),
    ):
        assert refusal(str(given), config) == (403, "outside-roots")
    assert refusal(f"{inside}/run\0", config) == (403, "outside-roots")


@pytest.mark.parametrize(
    ("name", "values", "problem"),
    [
        ("nothing", {}, (404, "no-such-source")),
        ("run/run.json", {}, (404, "no-such-source")),
        ("empty", {}, (422, "no-archive")),
        ("bare", {"watch": True}, (422, "not-of-a-watcher")),
    ],
)
def test_a_place_without_traces_is_refused(
    tmp_path: Path, config: ServiceConfig, name: str, values: dict[str, Any], problem: Any
):
    assert refusal(str(tmp_path / "inside" / name), config, **values) == problem


def test_an_unknown_name_lists_the_archives(config: ServiceConfig):
    with pytest.raises(Problem, match=r"the service has: mine") as caught:
        source_path(NewFit(source="yours"), config)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    "setting",
    ["calibrate.epochs=5", "learner.lora.rank=8", "seed=3", 'calibrate.candidates=["verdict"]'],
)
def test_settings_of_a_fit_are_taken(setting: str):
    assert NewFit(source="mine", settings=[setting]).settings == (setting,)


@pytest.mark.parametrize(
    "setting",
    [
        "video.cache_dir=/etc",
        "model=/etc",
        "cluster.address=ray://elsewhere:1",
        " calibrate.epochs=5",
        "calibrate=5",
        "calibrate.epochs",
        "calibrate.epochs=5\nmodel=x",
        "seeds=3",
        "calibrate.epochs=" + "5" * 5000,
    ],
)
def test_settings_that_name_files_or_hosts_or_are_none_are_refused(setting: str):
    with pytest.raises(ValidationError, match="none that a fit takes here"):
        NewFit(source="mine", settings=[setting])


@pytest.mark.parametrize(
    "values",
    [
        {"versions": "newest"},
        {"versions": "0.1-"},
        {"stage": "a/b"},
        {"stage": "a\0"},
        {"methods": ["tree"]},
        {"wacth": True},
        {"source": ""},
    ],
)
def test_values_that_cannot_be_meant_are_refused(values: dict[str, Any]):
    with pytest.raises(ValidationError):
        NewFit(**{"source": "mine", **values})


@pytest.mark.parametrize(
    "values",
    [{"versions": "0.3"}, {"allow_foreign": True}, {"recipe": "/r"}, {"model": "/m"}],
)
def test_a_watcher_is_given_nothing_that_it_knows_by_itself(values: dict[str, Any]):
    with pytest.raises(Problem, match="is of a single fit"):
        refuse_mixed(NewFit(source="mine", watch=True, **values))
    refuse_mixed(NewFit(source="mine", **values))


def test_recipe_and_model_lie_under_a_root_as_well(tmp_path: Path, config: ServiceConfig):
    assert allowed_path(str(tmp_path / "inside/run/run.json"), config.roots).name == "run.json"
    with pytest.raises(Problem) as caught:
        allowed_path("relative", config.roots)
    assert caught.value.status == 403
