import re

import pytest

from cluster.metrics.catalogue import METRICS
from cluster.metrics.sink_names import (
    SinkNames,
    dashboard_names,
    mlflow_names,
    prometheus_names,
)

ODD = (
    "drink beer",
    "drink_beer",
    "drink-beer",
    "drink__beer",
    "_drink_beer",
    "100%",
    "100_",
    "a/b",
    "a_b",
    "a//b",
    "..",
    "/",
    "1",
    "1.",
    "caf\u00e9",
    "\u8d70\u308b",
    "\U0001f600",
    "\x1b[31mred",
    "a\r\nb",
    "\u202egnp.exe",
    "\ud800",
    "l" * 300,
    "l" * 301,
    "\u8d70" * 200,
)
NAMES = [
    f"label/{label}/{figure}" for label in ODD for figure in ("accuracy", "reward", "reward/format")
] + [f"reward/{label}/mean" for label in ODD]
MAKERS = (dashboard_names, mlflow_names, prometheus_names)


def table(make: object) -> SinkNames:
    assert callable(make)
    names = make()
    assert isinstance(names, SinkNames)
    return names


@pytest.mark.parametrize("make", MAKERS)
def test_no_two_figures_share_a_name_and_each_attempt_has_the_same(make: object):
    first, again = table(make), table(make)
    names = {name: first.of(name) for name in NAMES}
    assert len(set(names.values())) == len(NAMES)
    assert {name: again.of(name) for name in reversed(NAMES)} == names
    assert [first.of(name) for name in NAMES] == list(names.values())


@pytest.mark.parametrize("make", MAKERS)
def test_names_of_our_own_stay_as_they_are(make: object):
    names, fixed = table(make), [m.name for m in METRICS if "<" not in m.name]
    assert [names.of(name).replace("/", "_") for name in fixed] == [
        name.replace("/", "_") for name in fixed
    ]
    assert names.of("reward/format/mean").replace("/", "_") == "reward_format_mean"


def test_mlflow_gets_paths_that_it_accepts_and_no_file_below_a_file():
    names = mlflow_names()
    paths = {names.of(f"grpo/{name}") for name in NAMES}
    for path in paths:
        assert re.fullmatch(r"[\w\-. :/]+", path)
        assert all(part not in ("", ".", "..") for part in path.split("/"))
        assert len(path.encode()) <= 250
        above = path.split("/")
        assert not paths & {"/".join(above[:end]) for end in range(1, len(above))}
    assert names.of("grpo/label/a/reward") == "grpo/label/a/reward"
    assert names.of("grpo/label/a/reward/format") == "grpo/label/a/reward.format"
    assert names.of("grpo/learning_rate/merger") == "grpo/learning_rate.merger"
    assert names.of("grpo/reward/accuracy/mean") == "grpo/reward/accuracy/mean"


def test_prometheus_gets_ascii():
    names = prometheus_names()
    for name in NAMES:
        assert re.fullmatch(r"[a-z]\w*", names.of(name), re.ASCII)
        assert "__" not in names.of(name)
        assert len(names.of(name)) <= 200
    assert names.of("label/drink_beer/reward") == "label_drink_beer_reward"
    assert re.fullmatch(r"label_drink_beer_reward_[0-9a-f]{8}", names.of("label/drink beer/reward"))


def test_dashboards_get_names_that_are_text_without_control_characters():
    names = dashboard_names()
    assert names.of("label/caf\u00e9 100%/reward") == "label/caf\u00e9 100%/reward"
    for name in NAMES:
        names.of(name).encode()
        assert names.of(name).isprintable()
