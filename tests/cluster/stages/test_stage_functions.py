"""A kind of stage that a test adds: a class and a function are all that it takes to be planned,
checked, run, summarised, and shown by every command that looks at a run."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from cluster.cli import main
from cluster.config.clip_selection import ClipSelection, faults_of
from cluster.config.controls import titles
from cluster.config.kinds.stage import Stage
from cluster.config.recipe import RunConfig
from cluster.config.stage_kinds import STAGE_KINDS
from cluster.config.stage_work import StageWork
from cluster.config.stages import num_updates
from cluster.inputs.samples import SampleSplits, stage_faults
from cluster.metrics.sinks import open_metrics
from cluster.plan.run_plan import plan_of
from cluster.run import run_each
from cluster.run_dir import RunDir
from cluster.run_files import prediction_files, read_run_titles
from cluster.session import Session
from cluster.stages.evaluation import evaluate_policy
from cluster.stages.stage import StageRun
from cluster.stages.stage_functions import STAGE_FNS, stage_run
from cluster.stages.supervised import SupervisedTrainer
from cluster.summary import summarise_run
from learner.config import OptimConfig
from learner.shared_prefix.rows import supervised_row
from rollout.config import RolloutConfig
from tests.cluster.session_fakes import FakeMemory, make_config, make_samples, open_fakes
from tests.cluster.stages.chain_fakes import BASE_WEIGHTS, ChainLearner
from wire.errors import UserError
from wire.types import Sample, Split
from wire.whole_file import write_json


class SentenceStage(Stage):
    """Fine-tunes the policy to say one sentence of every clip."""

    command: ClassVar[str] = "run"
    section: ClassVar[str] = ""
    kind: Literal["sentence"] = "sentence"
    sentence: str
    """What it is to say."""

    leaves_policy: ClassVar[bool] = True
    num_versions: ClassVar[int] = 1
    kept_checkpoints: ClassVar[int] = 2
    loads_engines: ClassVar[bool] = False

    def describe(self) -> str:
        return f"says {self.sentence!r}"

    def data_faults(self, samples: Sequence[Sample]) -> Iterator[UserError]:
        yield from faults_of(ClipSelection(), samples)

    def work(self, samples: Sequence[Sample] | None, rollout: RolloutConfig) -> StageWork:
        clips = None if samples is None else len(ClipSelection().of(samples))
        updates = None if clips is None else num_updates(clips, 1, 4)
        return StageWork(clips=clips, epochs=1, examples=clips, updates=updates)


async def run_sentence(session: Session, run: StageRun) -> dict[str, Any]:
    stage, start = run.of(SentenceStage), run.start.model_dir
    target = session.renderer.target(f"<think>{stage.sentence}</think><answer>undo</answer>")
    prompts = await session.prompts(session.data.of(Split.TRAIN))
    rows = [supervised_row(prompt, sample.video, target) for sample, prompt in prompts]
    optim = OptimConfig()
    await SupervisedTrainer.of(session, run.name).train(
        start, rows, epochs=1, batch_size=4, optim=optim
    )
    await session.learner.export(str(session.run_dir.model(run.name)))
    await session.publish(run.last_step)
    return await evaluate_policy(session, run.name, session.data.of(Split.TEST), 0.01)


STAGES: list[dict[str, Any]] = [
    {"name": "plain", "kind": "evaluate"},
    {"name": "polite", "kind": "sentence", "sentence": "good day", "title": "a polite policy"},
    {"name": "g", "kind": "grpo"},
    {"name": "rude", "kind": "sentence", "sentence": "go away", "from": "polite"},
]
NAMES = ["plain", "polite", "g", "rude"]
TITLES = {
    "plain": "the answer it writes on test",
    "polite": "a polite policy",
    "g": "GRPO, the answer it writes",
    "rude": "says 'go away'",
}
SAMPLES = make_samples()


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A recipe with the new kind, which is in both tables for the time of a test."""
    monkeypatch.setitem(STAGE_KINDS, "sentence", SentenceStage)
    monkeypatch.setitem(STAGE_FNS, "sentence", run_sentence)
    return make_config(stages=STAGES)


async def finish(config: RunConfig, path: Path) -> Path:
    """A run directory of the whole chain."""
    run_dir = RunDir.open(path / "run", config, resume=False, overwrite=False)
    memory: Any = FakeMemory()
    start = (BASE_WEIGHTS, 0)
    with (
        open_fakes(config, run_dir, SAMPLES, start, make_learner=ChainLearner) as fakes,
        open_metrics(config, run_dir.path, 0) as metrics,
    ):
        session, engines, _, _ = fakes
        session.metrics = metrics
        await run_each(session, config.chain.names, stage_run, memory)
        versions = [version for version, _ in engines.held]
    assert len(set(versions)) == len(versions), "each version is of one set of weights"
    write_json(run_dir.summary, summarise_run(config, run_dir))
    run_dir.close()
    return run_dir.path


def test_it_has_its_place_in_the_chain(config: RunConfig):
    chain = config.chain
    assert [chain.parent(name) for name in NAMES] == ["base", "base", "polite", "polite"]
    steps = [(chain.first_step(name), chain.last_step(name)) for name in NAMES]
    assert steps == [(0, 0), (1, 1), (1, 4), (5, 5)]


def test_it_is_planned_and_checked(config: RunConfig):
    plan = plan_of(config, NAMES, SAMPLES)
    assert [stage.name for stage in plan.stages] == NAMES
    polite = plan.stages[1]
    assert (polite.clips, polite.examples, polite.updates, polite.rollouts) == (8, 8, 2, 0)
    assert not list(stage_faults(config, SampleSplits(samples=SAMPLES), NAMES))
    (fault,) = stage_faults(config, SampleSplits(samples=make_samples(train=0)), ["polite"])
    assert "no samples with split='train'" in str(fault)


async def test_it_runs_and_is_summarised(config: RunConfig, tmp_path: Path):
    path = await finish(config, tmp_path)
    summary = json.loads((path / "summary.json").read_text())
    assert [row["name"] for row in summary["stages"]] == NAMES
    assert all(row["num_samples"] == 4 for row in summary["stages"])
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines if row["stage"] == "polite"] == [1, 2]
    assert not list((path / "checkpoints/polite").glob("*"))


async def test_its_results_stand_in_their_order_under_its_title(config: RunConfig, tmp_path: Path):
    path = await finish(config, tmp_path)
    assert list(prediction_files(path)) == NAMES
    for shown in (titles(config), read_run_titles(path)):
        assert {name: text for name, text in shown.items() if name in NAMES} == TITLES
        assert [name for name in shown if name in NAMES] == NAMES


async def test_commands_that_look_at_a_run_show_it(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = await finish(config, tmp_path)
    capsys.readouterr()
    assert main(["status", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], [stage["name"] for stage in told["finished"]]) == ("finished", NAMES)
    assert main(["compare", str(path), "--json", str(tmp_path / "figures.json")]) == 0
    arms = json.loads((tmp_path / "figures.json").read_text())["arms"]
    assert [arm["name"] for arm in arms] == NAMES
    assert main(["report", str(path)]) == 0
    page = (path / "report.html").read_text()
    places = [page.index(f'"name":"{name}","text":"{text}"') for name, text in TITLES.items()]
    assert places == sorted(places)


def test_a_wrong_setting_of_it_is_named(config: RunConfig):
    with pytest.raises(UserError, match=r"stages\.a: unknown key 'sentense'; did you mean 'sent"):
        make_config(stages=[{"name": "a", "kind": "sentence", "sentence": "", "sentense": 1}])
    with pytest.raises(UserError, match=r"stages\.a: 'sentence' is missing"):
        make_config(stages=[{"name": "a", "kind": "sentence"}])


def test_it_survives_the_run_directory(config: RunConfig):
    again = RunConfig.model_validate(config.model_dump(mode="json"))
    assert [asdict(plan) for plan in plan_of(again, NAMES, SAMPLES).stages] == [
        asdict(plan) for plan in plan_of(config, NAMES, SAMPLES).stages
    ]
    assert again == config
