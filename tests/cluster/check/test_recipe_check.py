"""`deepintuit check`: every finding at once, and nothing that `run` would refuse goes through."""

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.check.recipe_check import Report
from cluster.check.table import print_report
from cluster.cli import main
from rollout.prompt import Prompts
from tests.cluster.commands.mistakes import BAD_ROWS, BAD_SETTINGS, LACKING_DATA, Rows
from wire.finding import Area, warning

Recipe = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that each clip is decoded once."""
    return tmp_path_factory.mktemp("check") / "run"


@pytest.fixture
def check(run_dir: Path) -> Callable[..., int]:
    def call(recipe: Path, *words: str) -> int:
        return main(["check", str(recipe), "--run-dir", str(run_dir), *words])

    return call


def set_to(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def test_demo_data_passes_and_is_told_in_areas(
    check: Callable[..., int], recipe: Recipe, tmp_path: Path, capsys: Capture
):
    assert check(recipe(), "--json", str(tmp_path / "out.json")) == 0
    said = capsys.readouterr()
    assert said.err == ""
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["passed"] is True
    assert found["num_errors"] == 0
    assert set(found["balance"]) == {"train", "val", "cal", "test"}
    areas = {finding["area"] for finding in found["findings"] if finding["level"] == "ok"}
    assert areas >= {"recipe", "manifest", "clips", "splits", "leaks", "model", "prompts"}
    assert areas >= {"reward", "placement", "memory", "disk"}
    for finding in found["findings"]:
        assert finding["what"] in said.out
        assert finding["remedy"] or finding["level"] == "ok"


def test_a_logger_without_a_place_to_write_to_is_an_error(
    check: Callable[..., int], recipe: Recipe, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert check(recipe(), *set_to('logging.mlflow={experiment="a"}')) == 2
    assert "tracking_uri" in capsys.readouterr().out


def test_what_looks_like_markup_is_printed_as_it_is(capsys: Capture):
    finding = warning(
        Area.LEAKS, "a [red]b[/] :fire: c", "do :x: [d]", [f":{n}:[e]" for n in "123456"]
    )
    print_report(Report(recipe=Path("r.toml"), findings=(finding,), balance={"train": {"[b]": 1}}))
    said = capsys.readouterr().out
    for text in ("a [red]b[/] :fire: c", "-> do :x: [d]", "- :5:[e]", "[b]", "and 1 more"):
        assert text in said
    assert ":6:" not in said


def test_warnings_fail_only_where_none_are_allowed(
    check: Callable[..., int], recipe: Recipe, capsys: Capture
):
    path = recipe()
    assert check(path) == 0
    assert check(path, "--strict") == 2
    assert "--strict allows none" in capsys.readouterr().err


def refused(check: Callable[..., int], capsys: Capture, message: str, *words: Any) -> None:
    assert check(*words) == 2
    said = capsys.readouterr()
    assert re.search(re.escape(message), said.out)
    assert said.err.startswith("error: ")
    assert "would stop this run" in said.err


@pytest.mark.parametrize(("spoil", "message"), [*BAD_ROWS, *LACKING_DATA])
def test_data_that_run_refuses_is_an_error(
    check: Callable[..., int],
    recipe: Recipe,
    capsys: Capture,
    spoil: Callable[[Rows], None],
    message: str,
):
    refused(check, capsys, message, recipe(spoil))


@pytest.mark.parametrize(("setting", "message"), BAD_SETTINGS)
def test_a_setting_that_run_refuses_is_an_error(
    check: Callable[..., int], recipe: Recipe, capsys: Capture, setting: str, message: str
):
    refused(check, capsys, message, recipe(), *set_to(setting))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rollout.num_cpus=4000", "need 4000.5 CPUs"),
        ("learner.num_gpus=7", "7 GPUs"),
        ("rollout.max_prompt_length=3000000", "the engine refuses to start"),
    ],
)
def test_what_does_not_fit_the_machine_is_an_error(
    check: Callable[..., int], recipe: Recipe, capsys: Capture, setting: str, message: str
):
    refused(check, capsys, message, recipe(), *set_to(setting))


def test_a_missing_recipe_is_an_error(check: Callable[..., int], tmp_path: Path, capsys: Capture):
    refused(check, capsys, "nothing.toml", tmp_path / "nothing.toml")


def faulty(folder: Path) -> Callable[[Rows], None]:
    """Six faults at once, in rows that have nothing to do with each other."""

    def spoil(rows: Rows) -> None:
        train = [row for row in rows if row["split"] == "train"]
        cal = [row for row in rows if row["split"] == "cal"]
        test = [row for row in rows if row["split"] == "test"]
        cut = folder / "cut.mp4"
        cut.write_bytes(Path(train[0]["video"]).read_bytes()[:700])
        train[0]["video"] = str(cut)
        train[1]["label"] = "relaps"
        shutil.copy(train[2]["video"], folder / "copy.mp4")
        test[0] |= {"video": str(folder / "copy.mp4"), "label": train[2]["label"]}
        train[3]["group"] = cal[0]["group"] = "kitchen"
        named = folder / f"{cal[1]['label']}-7.mp4"
        shutil.copy(cal[1]["video"], named)
        cal[1]["video"] = str(named)
        test[1]["text"] = "same " * 400

    return spoil


def test_all_faults_are_found_at_once_without_a_model(
    check: Callable[..., int], recipe: Recipe, tmp_path: Path, capsys: Capture
):
    path = recipe(faulty(tmp_path))
    file = tmp_path / "out.json"
    settings = set_to("model=/nowhere/model", "data.use_side_text=true")
    assert check(path, "--json", str(file), *settings) == 2
    errors, warnings = found_in(file)
    assert any("cut.mp4" in text for text in warnings)
    assert any("did you mean 'relapse'" in text for text in errors)
    assert any("no model directory" in text for text in errors)
    assert any("more than one split" in text and "(test)" in text for text in warnings)
    assert any("kitchen: cal, train" in text for text in warnings)
    assert any("file names say" in text and "-7.mp4" in text for text in warnings)


def test_a_prompt_that_does_not_fit_is_named_with_its_tokens(
    check: Callable[..., int], recipe: Recipe, tmp_path: Path
):
    path = recipe(faulty(tmp_path))
    file = tmp_path / "out.json"
    assert check(path, "--json", str(file), *set_to("data.use_side_text=true")) == 2
    errors, warnings = found_in(file)
    (text,) = [text for text in errors + warnings if "max_prompt_length" in text]
    assert text in errors, "run tries the longest text first, and does not start"
    assert "1 of" in text
    assert "longer than rollout.max_prompt_length" in text
    assert "shorten the side texts" in text


def test_labels_that_fill_the_prompt_are_one_finding_with_its_own_remedy(
    check: Callable[..., int], recipe: Recipe, tmp_path: Path
):
    path, file = recipe(), tmp_path / "out.json"
    definition = "something that happens in the clip, said in one sentence"
    names = [
        "relapse",
        "undo",
        "repeat",
        "zigzag",
        "varied",
        *(f"class {n:03}" for n in range(295)),
    ]
    tables = ", ".join(f'{{name = "{name}", definition = "{definition}"}}' for name in names)
    text = path.read_text()
    text = text[: text.index("labels")] + f"labels = [{tables}]\n" + text[text.index("[data]") :]
    path.write_text(text)
    assert check(path, "--json", str(file)) == 2
    errors, _ = found_in(file)
    (finding,) = [error for error in errors if "prompt" in error]
    tokens, video, labels = map(
        int, re.findall(r"(\d+)(?: tokens,| of them video| labels)", finding)[:3]
    )
    assert 0.9 * tokens < labels < tokens
    assert 0 < video < 100
    assert "shorten the labels' definitions" in finding
    assert "max_pixels" not in finding


def found_in(file: Path) -> tuple[list[str], list[str]]:
    """Errors and warnings, each with all of its words."""
    findings = json.loads(file.read_text())["findings"]
    return tuple(  # type: ignore[return-value]
        [
            f"{f['what']} {' '.join(f['where'])} {f['remedy']}"
            for f in findings
            if f["level"] == level
        ]
        for level in ("error", "warning")
    )


def test_a_bad_clip_does_not_stop_a_run_unless_there_are_many(
    check: Callable[..., int], recipe: Recipe, tmp_path: Path, capsys: Capture
):
    def spoil(rows: Rows) -> None:
        test = next(row for row in rows if row["split"] == "test")
        bad = tmp_path / "bad.mp4"
        bad.write_bytes(b"no video")
        test["video"] = str(bad)

    path = recipe(spoil)
    assert check(path, *set_to("data.max_quarantine_frac=0")) == 2
    assert "more than data.max_quarantine_frac = 0 allows" in capsys.readouterr().out
    assert check(path) == 0
    assert "a run goes on without them" in capsys.readouterr().out


def test_reward_functions_are_loaded_and_tried_each_on_its_own(
    check: Callable[..., int], recipe: Recipe, tmp_path: Path, capsys: Capture
):
    head = "def score(data_source, solution_str, ground_truth, extra_info=None):\n    return "
    for name, result in (("good", "0.5"), ("bad", "1 / 0"), ("odd", "(")):
        (tmp_path / f"{name}.py").write_text(head + result)
    terms = ", ".join(
        f"{{function='{tmp_path}/{name}.py:score', name='{name}'}}"
        for name in ("good", "bad", "odd")
    )
    assert check(recipe(), *set_to(f"reward.terms=[{terms}]")) == 2
    said = capsys.readouterr().out
    assert "good gives 0.5 to a right answer" in said
    assert "bad failed on a trace that answers right: ZeroDivisionError" in said
    assert "SyntaxError" in said


BAD_MODEL_FILES = [
    ("config.json", None),
    ("config.json", "{}"),
    ("config.json", "[]"),
    ("config.json", "{"),
    ("tokenizer.json", None),
    ("tokenizer.json", "{}"),
    ("tokenizer.json", "not json"),
    ("processor_config.json", None),
    ("processor_config.json", "{"),
    ("chat_template.jinja", None),
    ("chat_template.jinja", "{{"),
    ("chat_template.jinja", "no video here"),
]


@pytest.mark.parametrize(("name", "content"), BAD_MODEL_FILES)
def test_a_model_folder_with_a_bad_file_is_an_error_and_the_rest_is_checked(
    check: Callable[..., int],
    recipe: Recipe,
    demo: Path,
    tmp_path: Path,
    capsys: Capture,
    name: str,
    content: str | None,
):
    model = tmp_path / "model"
    shutil.copytree(demo / "model", model)
    (model / name).unlink()
    if content is not None:
        (model / name).write_text(content)
    assert check(recipe(), *set_to(f"model={model}")) == 2
    said = capsys.readouterr()
    assert "would stop this run" in said.err
    assert "accuracy gives 1" in said.out


def test_a_model_of_the_hub_is_not_fetched_but_said_to_be_absent(
    check: Callable[..., int], recipe: Recipe, capsys: Capture
):
    assert check(recipe(), *set_to("model=no-such-org/no-such-model")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "no-such-org/no-such-model is not here: neither the model nor prompts" in said
    assert "hf download no-such-org/no-such-model" in said


def test_only_what_the_command_needs_is_asked_for(check: Callable[..., int], recipe: Recipe):
    def only_test(rows: Rows) -> None:
        rows[:] = [row for row in rows if row["split"] == "test"]

    assert check(recipe(only_test)) == 2
    assert check(recipe(only_test), "--for", "evaluate") == 0


def test_a_run_that_is_there_is_said_and_a_run_may_start_after_a_check(
    check: Callable[..., int], recipe: Recipe, tmp_path: Path, capsys: Capture
):
    from cluster.config.recipe import read_recipe
    from cluster.run_dir import RunDir

    path = recipe()
    own = ("--run-dir", str(tmp_path / "own"))
    assert check(path, *own) == 0
    config = read_recipe(path, [])
    RunDir.open(tmp_path / "own", config, resume=False, overwrite=False).close()
    (tmp_path / "own/archive").mkdir()
    assert check(path, *own) == 0
    assert "holds a run" in capsys.readouterr().out


def test_a_cache_folder_that_cannot_be_written_is_an_error(
    check: Callable[..., int], recipe: Recipe, tmp_path: Path, capsys: Capture
):
    (tmp_path / "file").touch()
    setting = f"video.cache_dir={tmp_path}/file/cache"
    refused(check, capsys, "file/cache", recipe(), *set_to(setting))


def test_findings_do_not_take_quadratic_time(tmp_path: Path):
    from cluster.check import leaks, overlap
    from tests.cluster.check.builders import LABELS, make_sample, make_scan

    def seconds(count: int) -> float:
        rows = [make_sample(str(n), text="a fall", extra={"group": n}) for n in range(count)]
        looks = {row.video: make_scan(str(n // 2)) for n, row in enumerate(rows)}
        before = time.process_time()
        overlap.content_findings(rows, looks)
        overlap.group_findings(rows, [])
        leaks.leak_findings(Prompts(LABELS, use_side_text=True), rows)
        return time.process_time() - before

    assert seconds(16_000) < 60 * max(seconds(1000), 0.01)


def test_rewards_are_tried_as_a_run_has_them(
    check: Callable[..., int], recipe: Recipe, tmp_path: Path, capsys: Capture
):
    (tmp_path / "rubric.py").write_text("def f(solution_str, rubric):\n    return 1.0\n")
    terms = (
        "{function='accuracy'}",
        "{function='format', gated_by='accuracy'}",
        "{function='overlong', params={cache_length=8}}",
        "{function='temporal_contrast'}",
        "{function='repetition', weight=0}",
        f"{{function='{tmp_path}/rubric.py:f', name='graded'}}",
    )
    assert check(recipe(), *set_to(f"reward.terms=[{', '.join(terms)}]")) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "format gives 1 to a right answer" in said
    assert "overlong gives 0 to a right answer" in said
    assert "repetition gives 0 to a right answer" in said
    assert "temporal_contrast does not apply to the first row" in said
    assert "needs ['rubric'], which is neither" in said
