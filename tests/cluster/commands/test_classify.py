"""The command classify, with a scripted engine behind it: output, exit status, mistakes, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calibrate.classifier import Classifier
from calibrate.description import PromptText
from cluster.classify.pipeline import Pipeline
from cluster.cli import main
from tests.architecture.product import ROOT
from tests.calibrate.classifiers import make_description, publish
from tests.cluster.classify.answering_fakes import (
    NAMES,
    Clips,
    ScriptedEngine,
    calibration,
    make_pipeline,
    make_renderer,
)
from wire.errors import ClipError, GenerationError
from wire.labels import Label

CALIBRATION = calibration({"policy": 0.8, "verdict": 0.8})


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    description = make_description(
        labels=tuple(Label(name=name) for name in NAMES),
        label_codes={name: (number,) for number, name in enumerate(NAMES, start=7)},
    )
    return publish(tmp_path, description=description, calibration=CALIBRATION).path


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (folder / name).write_bytes(b"0")
    return folder


class Scripted:
    """``open_pipeline`` on a scripted engine; some clips are bad."""

    def __init__(self) -> None:
        self.bad: set[str] = set()
        self.error: GenerationError | None = None
        self.opened: list[tuple[Classifier, Any, Any]] = []

    @asynccontextmanager
    async def __call__(
        self, classifier: Classifier, machine: Any, **options: Any
    ) -> AsyncIterator[Pipeline]:
        self.opened.append((classifier, machine, options))
        renderer = make_renderer()
        engine = ScriptedEngine(renderer, error=self.error)
        engine.is_alive = self.error is None
        errors = {name: ClipError(f"cannot decode {name}: cut") for name in self.bad}
        yield make_pipeline(engine, renderer, clips=Clips(dict(errors)), threshold=0.1)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    import cluster.classify.open as opening

    made = Scripted()
    monkeypatch.setattr(opening, "open_pipeline", made)
    return made


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_rows_go_to_stdout_as_json_lines_and_all_else_to_stderr(
    classifier: Path, clips: Path, scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", str(classifier), str(clips), f"{clips}/b.mp4#t=1,2"]) == 0
    out, err = capsys.readouterr()
    rows = rows_of(out)
    names = [*(f"{clips}/{name}.mp4" for name in "abc"), f"{clips}/b.mp4#t=1,2"]
    assert [row["id"] for row in rows] == names
    assert all(sum(row["probabilities"].values()) == pytest.approx(1) for row in rows)
    assert "4 clips in " in err
    assert "classify: 4/4" in err


def test_a_bad_clip_makes_the_exit_status_1_and_others_are_answered(
    classifier: Path, clips: Path, scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted.bad.add(f"{clips}/b.mp4")
    words = ["classify", str(classifier), str(clips), "--format", "table", "--traces", "none"]
    assert main(words) == 1
    out, err = capsys.readouterr()
    _, first, bad, last = out.splitlines()
    assert first.split()[0] == last.split()[0] == "auto"
    assert bad.startswith("failed")
    assert "1 failed" in err


def test_labels_of_a_manifest_give_an_accuracy(
    classifier: Path, clips: Path, scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = clips / "m.jsonl"
    labels = ["undo", "repeat", None]
    rows = [{"video": f"{n}.mp4", "label": x} for n, x in zip("abc", labels, strict=True)]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["classify", str(classifier), str(manifest), "--traces", "none"]) == 0
    out, err = capsys.readouterr()
    assert [row.get("truth") for row in rows_of(out)] == labels
    assert all("trace" not in row for row in rows_of(out))
    assert "of 2 clips with a label" in err


def test_a_file_takes_the_rows_and_is_not_overwritten(
    classifier: Path, clips: Path, scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    target = clips / "rows.jsonl"
    words = ["classify", str(classifier), str(clips / "a.mp4"), "--out", str(target)]
    assert main(words) == 0
    assert capsys.readouterr().out == ""
    (row,) = rows_of(target.read_text())
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert [one["id"] for one in rows_of(target.read_text())] == [row["id"]]


def test_a_control_is_in_each_row_and_in_the_summary(
    classifier: Path, clips: Path, scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", str(classifier), str(clips), "--control", "blank"]) == 0
    out, err = capsys.readouterr()
    for row in rows_of(out):
        assert row["control"]["total_variation"] == 0
        assert row["control"]["label_changed"] is False
    assert "grey frames: the label changed in 0 of 3 clips" in err
    assert "not read from the pixels" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{clips}/gone.mp4"], "does not exist; give video files"),
        (["{empty}"], "there is no video in the folder"),
        (["{clips}", "--k", "0"], "expected 1 or more traces"),
        (["{clips}", "--gpu-memory", "2"], "expected 0 to 1"),
        (["{clips}", "--in-flight", "0"], "expected 1 or more"),
        (["{clips}", "--gpus", "0"], "for none, give --device cpu"),
        (["{clips}", "--no-monitor", "--acknowledge-shift"], "is of the monitor"),
    ],
)
def test_mistakes_are_said_before_an_engine_starts(
    classifier: Path,
    clips: Path,
    tmp_path: Path,
    scripted: Scripted,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    named = [word.format(clips=clips, empty=empty) for word in words]
    assert main(["classify", str(classifier), *named]) == 2
    assert message in capsys.readouterr().err
    assert scripted.opened == []


def test_a_mistake_or_a_failed_start_leaves_no_file_and_nothing_else_said(
    classifier: Path, clips: Path, scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    target = clips / "rows.jsonl"
    words = ["classify", str(classifier), str(clips), "--out", str(target)]
    assert main([*words, "--in-flight", "0"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    scripted.error = GenerationError("out of memory")
    assert main(words) == 1
    assert not target.exists(), "the next try would be refused"


def test_a_column_that_prompts_show_is_asked_for_before_an_engine_starts(
    tmp_path: Path, clips: Path, scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    description = make_description(
        labels=tuple(Label(name=name) for name in NAMES),
        label_codes={name: (number,) for number, name in enumerate(NAMES, start=7)},
    )
    prompts = {**description.prompts, "trace": PromptText.of("At {site}. {definitions}", "1")}
    shown = description.model_copy(update={"prompts": prompts})
    path = publish(tmp_path / "shown", description=shown, calibration=CALIBRATION).path
    manifest = clips / "m.jsonl"
    manifest.write_text('{"video": "a.mp4"}\n{"video": "b.mp4"}\n')
    assert main(["classify", str(path), str(manifest)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "prompts.trace: the manifest has no column 'site'" in line
    assert scripted.opened == []


def test_what_is_no_classifier_is_refused(
    clips: Path, scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", str(clips), str(clips)]) == 2
    assert "holds no classifier" in capsys.readouterr().err


def test_an_engine_that_is_lost_ends_it_with_status_1(
    classifier: Path, clips: Path, scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted.error = GenerationError("out of memory")
    assert main(["classify", str(classifier), str(clips)]) == 1
    assert "process has ended: out of memory" in capsys.readouterr().err


def test_settings_reach_the_engines(classifier: Path, clips: Path, scripted: Scripted) -> None:
    words = ["--k", "5", "--in-flight", "7", "--device", "cpu", "--cache-dir", str(clips / "x")]
    assert main(["classify", str(classifier), str(clips), *words]) == 0
    ((opened, machine, options),) = scripted.opened
    assert opened.path == classifier
    assert (machine.in_flight, machine.num_gpus, machine.cache_dir) == (7, 0, clips / "x")
    assert options["num_votes"] == 5


# --- interrupts, in a process of its own

SCRIPT = """
import asyncio, sys
from contextlib import asynccontextmanager
import cluster.classify.open as opening
from cluster.cli import main
from tests.cluster.classify.answering_fakes import ScriptedEngine, make_pipeline, make_renderer

class Slow(ScriptedEngine):
    async def generate(self, prompt, clip, sampling, adapter=None):
        if clip.clip_key.endswith("c.mp4"):
            sys.stderr.write("waiting\\n")
            await asyncio.get_running_loop().create_future()
        return await super().generate(prompt, clip, sampling, adapter)

@asynccontextmanager
async def scripted(classifier, machine, **options):
    renderer = make_renderer()
    yield make_pipeline(Slow(renderer), renderer, in_flight=1)
    sys.stderr.write("not reached\\n")

opening.open_pipeline = scripted
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_an_interrupt_leaves_the_rows_so_far_whole(classifier: Path, clips: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "classify", str(classifier), str(clips), "--device=cpu"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line == "waiting\n":
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert [Path(row["id"]).name for row in rows_of(out)] == ["a.mp4", "b.mp4"]
    assert "2 clips in " in err
    assert "not reached" not in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_reader_that_has_enough_ends_it_quietly(classifier: Path, clips: Path) -> None:
    for number in range(300):
        (clips / f"{number}.mp4").write_bytes(b"0")
    script = SCRIPT.replace('endswith("c.mp4")', 'endswith("no")')
    line = f'"{sys.executable}" -c "$SCRIPT" classify {classifier} {clips} --device=cpu | head -n 1'
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SCRIPT": script},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr


def test_a_row_of_the_real_thing_has_the_fields_of_the_docs() -> None:
    from tests.cluster.classify.test_rows import ROW

    text = (ROOT / "docs/classify.md").read_text()
    for name in replace(ROW, truth="undo", votes={"undo": 1}).as_json():
        assert f"`{name}`" in text, f"docs/classify.md does not say what {name} is"
