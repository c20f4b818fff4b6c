"""A learner rank lost in a GRPO or supervised stage: healed within the run, to the same weights.
The stage, loop, buffer, archive, checkpoints and the LearnerGroup are the product's."""

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cluster.actors import learner_group
from cluster.config.recipe import RunConfig
from cluster.metrics.events import EventLog, read_events
from cluster.run_dir import RunDir
from cluster.stages.grpo.heal import TrainedGroups, TrainedStep
from cluster.stages.grpo.stage import train_grpo
from learner.config import OptimConfig
from rollout.engine import Sampling
from tests.cluster.mortal_ranks import Deaths, mortal_learner, weights_of
from tests.cluster.session_fakes import (
    FakeEngines,
    grpo_run,
    load_renderer,
    make_config,
    make_run_dir,
    make_samples,
    open_fakes,
    run_one,
)
from tests.groups import make_group, make_trace
from wire.archive.archive import Archive, read_groups
from wire.errors import ArchiveError, RankDied
from wire.types import (
    Completion,
    FinishReason,
    PolicyVersion,
    Purpose,
    Sample,
    stable_seed,
)

STEPS, GROUPS = 5, 2
V1 = PolicyVersion(attempt=0, step=1)
TIMES = (
    *("timing_s/", "perf/", "cache/", "val/seconds", "rollouter/", "trainer/", "limit/"),
    *("fleet/", "effective_training_time_ratio"),
)
"""Figures of how long it took, and of the heals themselves."""


class Engines(FakeEngines):
    """What they write depends on the weights, the clip and the seed."""

    async def answer(
        self, sample: Sample, sampling: Sampling, upcoming: str | None = None, ask: Any = "trace"
    ) -> Any:
        self.seed = sampling.seed
        return await super().answer(sample, sampling, upcoming, ask)

    def _complete(self, sample: Sample, index: int) -> Completion:
        draw = stable_seed(self.weights, sample.id, self.seed, index)
        text = f"<think>up</think><answer>{sample.label if draw % 2 else 'none'}</answer>"
        ids = self._renderer.target(text)
        return Completion(
            token_ids=ids,
            logprobs=(-1.0 - draw % 2**22,) + (-0.5,) * (len(ids) - 1),
            text=text,
            finish_reason=FinishReason.STOP,
            policy_version=self.version,
        )


def config_of(
    *, save_every: int = 3, max_staleness: int = 1, timeout_s: float = 60.0, **grpo: Any
) -> RunConfig:
    return make_config(
        deterministic=True,
        learner={"dtype": "float32", "num_ranks": 2, "max_restarts": 99, "timeout_s": timeout_s},
        grpo={
            "num_steps": STEPS,
            "groups_per_step": GROUPS,
            "max_staleness": max_staleness,
            "save_every": save_every,
            **grpo,
        },
        coldstart={"epochs": 2, "batch_size": 2},
    )


class Outcome:
    """What a training left: final weights, figures of each step, groups, events."""

    def __init__(self, path: Path, config: RunConfig, deaths: Deaths, stage: str = "grpo") -> None:
        path.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            asyncio.run(self._train(path, config, deaths, stage, patch))

    async def _train(
        self, path: Path, config: RunConfig, deaths: Deaths, stage: str, patch: pytest.MonkeyPatch
    ) -> None:
        run_dir = make_run_dir(path, config)
        try:
            await self._train_in(run_dir, config, deaths, stage, patch)
        finally:
            run_dir.close()
        groups = read_groups(run_dir.archive, Purpose.TRAIN)
        self.groups = sorted(group.group_id for group in groups)
        self.events = [event for event in read_events(run_dir.path) if "learner" in event.kind]

    async def _train_in(
        self,
        run_dir: RunDir,
        config: RunConfig,
        deaths: Deaths,
        stage: str,
        patch: pytest.MonkeyPatch,
    ) -> None:
        make = mortal_learner(config, patch, deaths, EventLog(run_dir.path, 0))
        with open_fakes(config, run_dir, make_samples(), ("base-model", 1), Engines, make) as fakes:
            session, engines, learner, metrics = fakes
            if stage == "grpo":
                await train_grpo(session, grpo_run(session, "base-model"))
            else:
                await run_one(session, stage)
            self.weights, self.versions = weights_of(learner), engines.held  # type: ignore[arg-type]
            self.lines = metrics.lines
            self.figures = [
                {name: value for name, value in figures.items() if not name.startswith(TIMES)}
                for figures in metrics.values
            ]

    @property
    def result(self) -> Any:
        return self.weights, self.versions, self.lines, self.figures, self.groups


MANY = settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@MANY
@given(
    at=st.lists(st.integers(4, 90), min_size=1, max_size=4),
    save_every=st.integers(1, 6),
    max_staleness=st.integers(0, 2),
    grpo=st.sampled_from(
        [
            {},
            {"groups_per_update": 1, "ppo_epochs": 2},
            {"loss": {"old_logprobs": "engine", "rollout_is": "none"}, "ppo_epochs": 2},
            {"filter_groups": {"enable": True, "max_num_gen_batches": 2}},
            {"validate": {"every": 2, "restore_best": True}},
        ]
    ),
)
def test_a_rank_that_dies_in_any_call_changes_nothing_of_a_deterministic_training(
    tmp_path_factory: pytest.TempPathFactory,
    at: list[int],
    save_every: int,
    max_staleness: int,
    grpo: dict[str, Any],
):
    folder = tmp_path_factory.mktemp("heal")
    config = config_of(save_every=save_every, max_staleness=max_staleness, **grpo)
    whole = Outcome(folder / "whole", config, Deaths())
    deaths = Deaths(*at)
    healed = Outcome(folder / "healed", config, deaths)
    assert healed.result == whole.result
    kinds = [event.kind for event in healed.events]
    assert kinds.count("learner_died") >= min(1, deaths.num_killed)
    assert ("learner_healed" in kinds) == bool(deaths.num_killed)
    assert whole.events == []


@pytest.mark.parametrize("verb", ["train_step", "save", "publish", "logprobs"])
def test_archived_groups_are_replayed_from_the_last_whole_checkpoint(tmp_path: Path, verb: str):
    """Checkpoints are of steps 2 and 4; the rank dies in step 4."""
    whole = Deaths()
    config = config_of(save_every=2)
    expected = Outcome(tmp_path / "whole", config, whole)
    numbers = [number for number, name in enumerate(whole.calls) if name == verb]
    of_step_4 = {"train_step": 6, "save": 2, "publish": 8, "logprobs": 8}[verb]
    deaths = Deaths(numbers[of_step_4])
    healed = Outcome(tmp_path / "healed", config, deaths)
    assert (deaths.num_killed, deaths.num_born) == (1, 4)
    assert healed.result == expected.result
    died, heal = healed.events
    assert (died.kind, died.subject, died.fields["cause"]) == ("learner_died", "rank-0", "died")
    assert f"learner rank 0 to {verb}: its process died" in died.fields["text"]
    assert heal.kind == "learner_healed"
    assert heal.fields["from_checkpoint"] == "step-000002"
    assert heal.fields["replayed_steps"] == (1 if verb == "train_step" else 2)
    assert heal.fields["seconds"] >= 0


def test_without_a_checkpoint_the_stage_is_healed_from_its_start_weights(tmp_path: Path):
    whole = Deaths()
    config = config_of(save_every=99)
    expected = Outcome(tmp_path / "whole", config, whole)
    numbers = [number for number, name in enumerate(whole.calls) if name == "train_step"]
    healed = Outcome(tmp_path / "healed", config, Deaths(numbers[-1]))
    assert healed.result == expected.result
    (heal,) = [event for event in healed.events if event.kind == "learner_healed"]
    assert (heal.fields["from_checkpoint"], heal.fields["replayed_steps"]) == ("start", STEPS - 1)


def test_a_rank_that_answers_nothing_is_healed_at_its_deadline(tmp_path: Path):
    expected = Outcome(tmp_path / "whole", config_of(), Deaths())
    deaths = Deaths(30, hang=True)
    healed = Outcome(tmp_path / "healed", config_of(timeout_s=0.5), deaths)
    assert healed.result == expected.result
    died = healed.events[0]
    assert (died.kind, died.fields["cause"]) == ("learner_died", "deadline")
    assert "waited 0 s for learner rank" in died.fields["text"]


@MANY
@given(at=st.lists(st.integers(4, 80), min_size=1, max_size=3))
def test_a_supervised_training_is_healed_from_its_last_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, at: list[int]
):
    folder = tmp_path_factory.mktemp("heal")
    whole = Outcome(folder / "whole", config_of(), Deaths(), "coldstart")
    healed = Outcome(folder / "healed", config_of(), Deaths(*at), "coldstart")
    assert healed.result == whole.result


def test_a_run_whose_restarts_are_used_up_ends_with_the_loss(tmp_path: Path):
    config = config_of()
    learner = config.learner.model_copy(update={"max_restarts": 1})
    config = config.model_copy(update={"learner": learner})
    with pytest.raises(ExceptionGroup) as raised:
        Outcome(tmp_path / "run", config, Deaths(*range(20, 200)))
    assert raised.group_contains(RankDied, match="its process died")


async def test_ranks_whose_node_is_gone_take_other_seats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config, moves = config_of(), list[str]()
    learner = mortal_learner(config, monkeypatch, Deaths(6))(Engines(load_renderer(), V1, "base"))
    first = learner._seats[0]
    monkeypatch.setattr(type(first), "is_on_live_node", property(lambda seat: seat is not first))
    monkeypatch.setattr(type(first), "release", lambda seat: moves.append("released"))

    async def reserve(config: RunConfig, *, engines: bool) -> Any:
        assert not engines
        moves.append("reserved")
        return SimpleNamespace(ranks=[type(first)(), type(first)()])

    monkeypatch.setattr(learner_group.placement, "reserve", reserve)
    await learner.start()
    await learner.begin("base", OptimConfig())
    await learner.rest()  # the death
    assert moves == ["released", "reserved"]
    assert first not in learner._seats
    assert weights_of(learner) == ["base", "base"]
    learner.stop()
    assert moves == ["released", "reserved", "released"], "the run holds its first seats alone"


async def test_a_group_comes_back_without_the_traces_that_were_left_out(tmp_path: Path):
    group = make_group(make_trace(), make_trace(), group_id="grpo/00000007")
    with Archive(tmp_path / "archive", 0) as archive:
        archive.append(group)
        fewer = TrainedStep.of([replace(group, traces=group.traces[1:])])
        (again,) = await TrainedGroups(archive, "grpo").read(fewer, 1)
        assert again.traces == group.scored[1:]
        assert await TrainedGroups(archive, "grpo").read(TrainedStep.of([group]), 1)
        missing = TrainedStep(groups={group.group_id: (1, 2, 3)})
        with pytest.raises(ArchiveError, match="lacks 3 of the 3 traces"):
            await TrainedGroups(archive, "grpo").read(missing, 1)
