"""GRPO killed at any moment and resumed: the real loop, buffer, archive and checkpoints; engines
and a learner whose weights are a hash of all that they were trained on."""

import asyncio
import itertools
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.config.recipe import RunConfig
from cluster.resume.archived_groups import place_of
from cluster.run_dir import RunDir
from cluster.stages.grpo.stage import train_grpo
from learner.shared_prefix.rows import Row
from rollout.engine import Sampling
from rollout.worker import Rollout
from tests.cluster.session_fakes import (
    FakeEngines,
    FakeLearner,
    grpo_run,
    make_config,
    make_run_dir,
    make_samples,
    open_fakes,
)
from wire.archive.archive import Archive, read_groups
from wire.archive.compaction import compact_archive
from wire.types import (
    Completion,
    FinishReason,
    PolicyVersion,
    Purpose,
    Sample,
    TraceGroup,
    stable_hash,
    stable_seed,
)

STEPS, GROUPS = 6, 2


class Killed(BaseException):
    """Stands in for SIGKILL: nothing of ours catches it."""


class World:
    """What is known of all attempts of a run from outside; counts down to a kill."""

    def __init__(self) -> None:
        self.left = -1
        self.is_compacting = False
        """Whether the archive is compacted beside the run and between its attempts."""
        self.written_by: dict[float, str] = {}
        """First logprob of a trace -> the weights that wrote it."""
        self.parents: dict[str, str] = {}
        """Weights -> those that they were trained from."""
        self.trained: dict[str, list[float]] = {}
        """Weights -> first logprobs of the traces that were trained last."""
        self.random = random.Random(0)

    def moment(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1


WORLD = World()


class Engines(FakeEngines):
    """What they write depends on weights, clip and place; how long it takes, on nothing."""

    async def answer(
        self, sample: Sample, sampling: Sampling, upcoming: str | None = None, ask: Any = "trace"
    ) -> Rollout:
        version, weights = self.version, self.weights
        for _ in range(WORLD.random.randrange(12)):
            await asyncio.sleep(0)
        WORLD.moment()
        self.wrote.append((weights, sample.video))
        made = [self._of(weights, version, sample, sampling.seed, k) for k in range(sampling.n)]
        return Rollout(
            prompt=await self.prompt(sample, "trace"),
            completions=tuple(made),
            failures=(),
            policy_version=version,
        )

    def _of(
        self, weights: str, version: PolicyVersion, sample: Sample, seed: int, number: int
    ) -> Completion:
        draw = stable_seed(weights, sample.id, seed, number)
        text = f"<think>up</think><answer>{sample.label if draw % 2 else 'none'}</answer>"
        ids = self._renderer.target(text)
        first = -1.0 - draw % 2**22  # float32 holds it
        WORLD.written_by[first] = weights
        return Completion(
            token_ids=ids,
            logprobs=(first,) + (-0.5,) * (len(ids) - 1),
            text=text,
            finish_reason=FinishReason.STOP,
            policy_version=version,
        )


class Learner(FakeLearner):
    """Weights are a hash of the weights before and of every trace and advantage."""

    async def train_step(
        self, rows: Sequence[Row], objective: str, learning_rate: float
    ) -> dict[str, float]:
        WORLD.moment()
        await asyncio.sleep(0)
        about = [(r.advantage, r.rollout_logprobs) for row in rows for r in row.responses]
        after = stable_hash(self.weights, about, learning_rate)[:16]
        WORLD.parents[after] = self.weights
        WORLD.trained[after] = [logprobs[0] for _, logprobs in about if logprobs]
        self.weights = after
        WORLD.moment()
        return {"policy_loss": stable_seed(after) / 2**31}

    async def publish(self, version: PolicyVersion, names: Sequence[str]) -> dict[str, str]:
        WORLD.moment()
        return await super().publish(version, names)

    async def save(self, directory: str, tag: str, notes: dict[str, str]) -> None:
        WORLD.moment()
        await super().save(directory, tag, notes)
        WORLD.moment()


COMPACTING = threading.Lock()


class MomentousArchive(Archive):
    """Killed before, in between and after; never on the event loop, which would stand still."""

    def append(self, group: TraceGroup) -> None:
        assert threading.current_thread() is not threading.main_thread()
        WORLD.moment()
        super().append(group)
        WORLD.moment()

    def compact(self, step: int) -> Path | None:
        assert threading.current_thread() is not threading.main_thread()
        WORLD.moment()
        with COMPACTING:  # its thread may outlive the attempt that a kill has ended
            path = super().compact(step)
            if WORLD.is_compacting:
                assert compact_archive(self.directory).has_writer
        WORLD.moment()
        return path


@contextmanager
def attempt(config: RunConfig, run_dir: RunDir, kill_at: int) -> Iterator[SimpleNamespace]:
    """One start of the run, killed at a moment (-1: never)."""
    samples = make_samples()
    WORLD.left = kill_at
    with open_fakes(config, run_dir, samples, ("base-model", 1), Engines, Learner) as fakes:
        session, engines, learner, metrics = fakes
        session.archive.__class__ = MomentousArchive
        yield SimpleNamespace(
            session=session, engines=engines, learner=learner, metrics=metrics, samples=samples
        )


def run(
    config: RunConfig, run_dir: RunDir, kills: Sequence[int], *, compacting: bool = False
) -> tuple[str, dict[Any, Any]]:
    """Final weights, and the last figures of each step and validation, after these kills and
    resumptions."""
    figures: dict[Any, Any] = {}
    WORLD.is_compacting = compacting
    for kill_at in (*kills, -1):
        with attempt(config, run_dir, kill_at) as this:
            try:
                asyncio.run(train_grpo(this.session, grpo_run(this.session, "base-model")))
            except BaseException as error:
                if not _is_kill(error):
                    raise
            for (_, step), values in zip(this.metrics.lines, this.metrics.values, strict=True):
                line = step if "val/accuracy" not in values else f"validation {step}"
                figures[line] = values | {"attempt": this.session.attempt}
            if kill_at == -1:
                run_dir.close()
                return this.learner.weights, figures
        if compacting:
            with COMPACTING:
                assert not compact_archive(run_dir.archive).has_writer
    raise AssertionError


def _is_kill(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_kill, error.exceptions))
    return isinstance(error, Killed | asyncio.CancelledError)


def config_of(
    *, deterministic: bool, max_staleness: int, save_every: int, validate: dict | None = None
) -> RunConfig:
    grpo = {
        "validate": validate or {},
        "num_steps": STEPS,
        "groups_per_step": GROUPS,
        "max_staleness": max_staleness,
        "save_every": save_every,
    }
    return make_config(deterministic=deterministic, grpo=grpo)


def comparable(figures: dict[Any, Any]) -> dict[Any, dict[str, float]]:
    left_out = (
        *("timing_s/", "perf/", "cache/", "rollout/num_taken_up", "attempt", "val/seconds"),
        *("limit/", "fleet/", "rollouter/", "trainer/", "effective_training_time_ratio"),
    )
    return {
        step: {name: value for name, value in row.items() if not name.startswith(left_out)}
        for step, row in figures.items()
    }


KILLS = st.lists(st.integers(0, 60), min_size=1, max_size=4)
MANY = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@MANY
@given(
    kills=KILLS,
    max_staleness=st.integers(0, 2),
    save_every=st.integers(1, 4),
    compacting=st.booleans(),
)
def test_a_deterministic_run_ends_the_same_whenever_it_was_killed(
    tmp_path_factory: pytest.TempPathFactory,
    kills: list[int],
    max_staleness: int,
    save_every: int,
    compacting: bool,
):
    config = config_of(deterministic=True, max_staleness=max_staleness, save_every=save_every)
    expected = run(config, make_run_dir(tmp_path_factory.mktemp("whole"), config), [])
    killed = make_run_dir(tmp_path_factory.mktemp("killed"), config)
    found = run(config, killed, kills, compacting=compacting)
    assert found[0] == expected[0]
    assert comparable(found[1]) == comparable(expected[1])


VALIDATE = st.fixed_dictionaries(
    {
        "every": st.integers(1, 3),
        "before_training": st.booleans(),
        "metric": st.sampled_from(["val/accuracy", "val/reward/mean"]),
    },
    optional={"patience": st.integers(1, 2), "restore_best": st.just(value=True)},
)


@settings(MANY, max_examples=12)  # three runs each
@given(kills=KILLS, max_staleness=st.integers(0, 2), validate=VALIDATE)
def test_a_deterministic_run_trains_the_same_with_validation_whenever_it_was_killed(
    tmp_path_factory: pytest.TempPathFactory,
    kills: list[int],
    max_staleness: int,
    validate: dict[str, Any],
):
    of_run = {"deterministic": True, "max_staleness": max_staleness, "save_every": 2}
    config = config_of(**of_run, validate=validate)
    plain = config_of(**of_run)
    bare = run(plain, make_run_dir(tmp_path_factory.mktemp("bare"), plain), [])
    expected = run(config, make_run_dir(tmp_path_factory.mktemp("whole"), config), [])
    found = run(config, make_run_dir(tmp_path_factory.mktemp("killed"), config), kills)
    assert found[0] == expected[0], "an early stop, and the best weights, are the same, too"
    assert comparable(found[1]) == comparable(expected[1])
    trained = {step: row for step, row in expected[1].items() if isinstance(step, int)}
    assert comparable(trained) == {k: v for k, v in comparable(bare[1]).items() if k in trained}
    if "patience" not in validate:
        assert len(trained) == STEPS
        assert "restore_best" in validate or found[0] == bare[0]


@MANY
@given(
    kills=KILLS,
    max_staleness=st.integers(0, 2),
    save_every=st.integers(1, 4),
    compacting=st.booleans(),
)
def test_no_group_is_lost_and_none_trained_twice(
    tmp_path_factory: pytest.TempPathFactory,
    kills: list[int],
    max_staleness: int,
    save_every: int,
    compacting: bool,
):
    config = config_of(
        deterministic=False,
        max_staleness=max_staleness,
        save_every=save_every,
        validate={"every": 2},
    )
    run_dir = make_run_dir(tmp_path_factory.mktemp("run"), config)
    weights, figures = run(config, run_dir, kills, compacting=compacting)
    ancestry = [weights]
    while ancestry[-1] in WORLD.parents:
        ancestry.append(WORLD.parents[ancestry[-1]])
    assert len(ancestry) == STEPS + 1, "every step is trained once on the way to the end"
    told = groups_told(run_dir, figures)
    for step, after in enumerate(reversed(ancestry[:-1]), start=1):
        first = [t.completion.logprobs[0] for g in told[step] for t in g.traces]
        assert WORLD.trained[after] == first, "archive and metrics tell what was trained"
        assert {WORLD.written_by[logprob] for logprob in first} <= set(ancestry)
        for group in told[step]:
            assert 0 <= step - group.policy_version.step <= max_staleness
    places = [place_of("grpo", g.group_id) for groups in told.values() for g in groups]
    assert sorted(places) == list(range(STEPS * GROUPS))


def groups_told(run_dir: RunDir, figures: dict[int, Any]) -> dict[int, list[TraceGroup]]:
    """Groups that each step trained, from the archive and the metrics alone
    (cluster/resume/archived_groups.py)."""
    newest: dict[int, list[TraceGroup]] = {}
    for group in read_groups(run_dir.archive, Purpose.TRAIN):
        newest.setdefault(place_of("grpo", group.group_id) or 0, []).append(group)
    told, start = {}, 0
    for step in range(1, STEPS + 1):
        end, by = int(figures[step]["rollout/next_place"]), figures[step]["attempt"]
        told[step] = [
            max(
                (g for g in newest[place] if g.policy_version.attempt <= by),
                key=lambda g: g.policy_version.attempt,
            )
            for place in range(start, end)
        ]
        start = end
    return told


def test_a_group_that_was_archived_is_not_written_again(tmp_path: Path):
    config = config_of(deterministic=False, max_staleness=0, save_every=1)
    before: set[str] = set()
    for kill_at in itertools.count(4):  # how many answers there are before the first append varies
        (tmp_path / str(kill_at)).mkdir()
        run_dir = make_run_dir(tmp_path / str(kill_at), config)
        killed = pytest.raises(BaseException)  # noqa: PT011
        with attempt(config, run_dir, kill_at) as this, killed:
            asyncio.run(train_grpo(this.session, grpo_run(this.session, "base-model")))
        before = {group.group_id for group in read_groups(run_dir.archive)}
        if before:
            break
    with attempt(config, run_dir, -1) as this:
        asyncio.run(train_grpo(this.session, grpo_run(this.session, "base-model")))
        written = len(this.engines.wrote)
    assert written == STEPS * GROUPS - len(before)
    versions = {g.group_id: g.policy_version.attempt for g in read_groups(run_dir.archive)}
    assert all(versions[group_id] == 0 for group_id in before), "its provenance is kept"
