"""Watcher of a run that is still training: fits a candidate classifier at each new version of the
policy that is measured better on val.

    archive, metrics.jsonl -> measured versions -> better than the best? -> weights held -> fit
        -> OUT/candidates/VERSION/, OUT/best -> the newest better one, OUT/watch.jsonl

    waits for                   woken by
    a new measured version      a look at the run's files, every few seconds
    the fit of a candidate      its end; better versions that come meanwhile are held, the last one
                                takes the place of the one before
    the end                     the run's heartbeat: finished, stopped, failed or gone

Only reads the run, and takes none of its locks. The test split is never touched: versions are
chosen by the val traces that the run itself wrote, and the fit is given none of its clips.
"""

import asyncio
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cluster.fitting.fit_work import work_folder
from cluster.fitting.watch_log import Decision, Outcome, WatchLog
from cluster.fitting.watch_versions import MeasuredVersion, ValMeasurements
from cluster.fitting.watch_weights import (
    Gone,
    NotYet,
    Saved,
    WatchedStage,
    export,
    find_weights,
    held_before,
    hold,
)
from cluster.status.heartbeat import State
from wire.daemon_thread import run_in_daemon_thread
from wire.errors import CheckpointDamaged, ConfigError, DeepIntuitError
from wire.types import PolicyVersion

CANDIDATES = "candidates"
BEST = "best"
_WORK = ".work"


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateFit:
    """Order to fit the classifier of one version of the policy.

    Example:
        CandidateFit(version=version, step=40, model=Path("m"), learn_from=frozenset({version}),
                     out=Path("out/candidates/0.41"))
    """

    version: PolicyVersion
    step: int
    """Step of the stage."""
    model: Path
    """Its weights, a Hugging Face directory that is there until the fit has ended."""
    learn_from: frozenset[PolicyVersion]
    """Versions whose training traces the classifier may learn from: the last ones that led to this
    one, and itself."""
    out: Path
    """The classifier directory to make."""


class CandidateFitter(Protocol):
    """Fits and publishes a candidate; cluster/fitting/watch_fit.py implements it."""

    async def __call__(self, order: CandidateFit) -> str:
        """Publish ``order.out``, whole or not at all. Returns what it reads, in words. Raises
        DeepIntuitError if it cannot."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSummary:
    """What a watcher leaves."""

    state: State
    """How the run ended."""
    why: str
    """The reason, where it did not finish."""
    num_versions: int
    """Versions that were measured."""
    fitted: tuple[Decision, ...]
    """In the order they were fitted."""
    best: Decision | None
    """That ``OUT/best`` names."""

    @property
    def fault(self) -> str | None:
        """Why the run did not finish, and what to do; None: it did."""
        if self.state is State.FINISHED:
            return None
        return f"the run {self.state}: {self.why or 'no reason is known'}; resume it"


class Watcher:
    """Watcher of one stage of a run, with its results in OUT."""

    def __init__(
        self,
        watched: WatchedStage,
        out: Path,
        fit: CandidateFitter,
        *,
        state: Callable[[], tuple[State, str]],
        say: Callable[[str], None],
        poll_s: float,
        num_versions: int,
        published: Callable[[Path], None] = lambda candidate: None,
        export: Callable[[WatchedStage, Saved, Path], Path] = export,
    ) -> None:
        """``state``: the run's, and why it is not running; ``say``: prints a line;
        ``num_versions``: the last ones, whose training traces a candidate learns from;
        ``published``: is called with each candidate, also with those of earlier watchers;
        ``export``: makes a Hugging Face directory of weights."""
        self._watched, self._out, self._fit, self._export = watched, out, fit, export
        self._state, self._say, self._poll_s = state, say, poll_s
        self._num_versions, self._published = num_versions, published
        self._log = WatchLog(out)
        labels = watched.config.label_set
        self._measurements = ValMeasurements(watched.run, watched.stage.name, labels)
        self._measured: dict[PolicyVersion, MeasuredVersion] = {}
        self._open: list[MeasuredVersion] = []  # nothing decided yet
        self._held: tuple[MeasuredVersion, Saved] | None = None  # to be fitted next
        self._fitting: tuple[MeasuredVersion, Saved, asyncio.Task[str]] | None = None
        self._began = 0.0

    async def run(self) -> WatchSummary:
        """Watch until the run has ended and all that is better has been fitted."""
        for leftover in self._leftovers():  # of a watcher that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        for decision in self._fitted:
            self._published(self._out / str(decision.candidate))
        try:
            while True:
                state, why = await run_in_daemon_thread(self._state)
                await self._look(runs=state is State.RUNNING)
                if state is not State.RUNNING and not (self._open or self._held or self._fitting):
                    for work in (self._out / _WORK, *self._fit_works()):
                        shutil.rmtree(work, ignore_errors=True)
                    return self._summary(state, why)
                await self._wait()
        finally:
            if self._fitting is not None:
                self._fitting[2].cancel()
                await asyncio.gather(self._fitting[2], return_exceptions=True)

    def _leftovers(self) -> list[Path]:
        """All but the checkpoints that were held and not fitted, and the work of their fits."""
        work, candidates = self._out / _WORK, self._out / CANDIDATES
        return [*work.glob("policy-*"), *work.glob("*.partial"), *candidates.glob("*.partial")]

    def _fit_works(self) -> list[Path]:
        """Work folders of fits that were under way."""
        return list((self._out / CANDIDATES).glob("*.work"))

    async def _look(self, *, runs: bool) -> None:
        for measured in await run_in_daemon_thread(self._measurements.new):
            self._measured[measured.version] = measured
            if (decided := self._log.decisions.get(measured.version)) is None:
                self._open.append(measured)
            elif decided.measured_at != measured.measured_at:
                raise ConfigError(
                    f"{self._out} has the candidates of another run than {self._watched.run}: its "
                    f"version {measured.version} was measured at another time; give another OUT"
                )
        self._open = [one for one in self._open if not self._decide(one, runs=runs)]
        if self._fitting is not None and self._fitting[2].done():
            await self._end_fit()
        if self._fitting is None and self._held is not None:
            measured, weights = self._held
            self._held = None
            self._began = time.monotonic()
            task = asyncio.create_task(self._fit_one(measured, weights))
            self._fitting = measured, weights, task

    async def _wait(self) -> None:
        """For the next look: some seconds, or the end of a fit."""
        tasks = [] if self._fitting is None else [self._fitting[2]]
        sleep = asyncio.create_task(asyncio.sleep(self._poll_s))
        try:
            await asyncio.wait([sleep, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()

    def _decide(self, measured: MeasuredVersion, *, runs: bool) -> bool:
        """Decide what becomes of a version; False: its weights are still to be saved."""
        if self._folder(measured).exists():  # killed before it was written down
            self._record(measured, Outcome.FITTED, "its candidate was there")
            self._name_best()
            return True
        if not self._is_better(measured):
            self._record(measured, Outcome.NOT_BETTER, self._best_in_words(measured))
            return True
        weights = self._weights(measured, runs=runs)
        if isinstance(weights, NotYet):
            return False
        if isinstance(weights, Gone):
            self._record(measured, Outcome.NO_WEIGHTS, weights.reason)
            return True
        if self._held is not None:
            better = f"{measured.version} was better before its fit began"
            self._record(self._held[0], Outcome.SUPERSEDED, better)
            self._let_go(self._held[1])
        self._held = measured, weights
        return True

    def _weights(self, measured: MeasuredVersion, *, runs: bool) -> Saved | NotYet | Gone:
        """Weights of a version, held in OUT."""
        # with the time: of a run that was replaced, the version is another
        folder = self._out / _WORK / f"checkpoint-{measured.version}-{measured.measured_at:.0f}"
        if (before := held_before(folder)) is not None:
            return before
        attempts = [v.attempt for v, m in self._measured.items() if m.step == measured.step]
        weights = find_weights(self._watched, measured, newest_attempt=max(attempts), runs=runs)
        if not isinstance(weights, Saved):
            return weights
        try:
            return hold(weights, folder)
        except (FileNotFoundError, CheckpointDamaged):
            return Gone(reason="the run deleted its checkpoint while it was being held")

    def _is_better(self, measured: MeasuredVersion) -> bool:
        """Whether a version is better than the best that is fitted, or about to be."""
        config, value = self._watched.stage.validation, self._value(measured)
        if value is None:
            return False
        best = self._best_before(measured)
        if best is None or (than := self._value(best)) is None:
            return True
        gain = value - than if config.best_mode == "max" else than - value
        return gain > config.min_delta

    def _best_before(self, measured: MeasuredVersion | None = None) -> MeasuredVersion | None:
        """The best version that is fitted or about to be, but ``measured``."""
        known = [self._measured.get(PolicyVersion.parse(one.version)) for one in self._fitted]
        known += [one[0] for one in (self._fitting, self._held) if one is not None]
        sign = 1 if self._watched.stage.validation.best_mode == "max" else -1
        rated = [
            (sign * value, one.version, one)
            for one in known
            if one is not None and one is not measured and (value := self._value(one)) is not None
        ]
        return max(rated)[2] if rated else None

    def _best_in_words(self, measured: MeasuredVersion) -> str:
        best = self._best_before(measured)
        value = None if best is None else self._value(best)
        return "" if best is None or value is None else f"version {best.version} has {value:.3f}"

    def _value(self, measured: MeasuredVersion) -> float | None:
        return measured.figures.get(self._watched.stage.validation.metric)

    @property
    def _fitted(self) -> list[Decision]:
        return self._log.of(Outcome.FITTED)

    def _folder(self, measured: MeasuredVersion) -> Path:
        return self._out / CANDIDATES / str(measured.version)

    async def _fit_one(self, measured: MeasuredVersion, weights: Saved) -> str:
        """Export the weights and fit. Returns what the candidate reads."""
        work = self._out / _WORK / f"policy-{measured.version}"
        try:
            model = await run_in_daemon_thread(self._export, self._watched, weights, work)
            self._folder(measured).parent.mkdir(exist_ok=True)
            return await self._fit(
                CandidateFit(
                    version=measured.version,
                    step=measured.step,
                    model=model,
                    learn_from=weights.versions(
                        measured.version, min(self._num_versions, measured.step + 1)
                    ),
                    out=self._folder(measured),
                )
            )
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _let_go(self, weights: Saved) -> None:
        """Give up what was held of a checkpoint."""
        if weights.is_checkpoint:
            shutil.rmtree(weights.folder, ignore_errors=True)

    async def _end_fit(self) -> None:
        assert self._fitting is not None, "it has ended"
        measured, weights, task = self._fitting
        self._fitting = None
        try:
            sources = await task
        except DeepIntuitError as error:
            self._record(measured, Outcome.FAILED, str(error))
            self._let_go(weights)
            return
        seconds = time.monotonic() - self._began
        self._record(measured, Outcome.FITTED, f"reads {sources}; {seconds:.0f} s", seconds)
        self._name_best()
        self._let_go(weights)

    def _name_best(self) -> None:
        """Let ``OUT/best`` name the newest better candidate, by rename."""
        best = self._best
        if best is None or best.candidate is None:
            return
        link = self._out / f".{BEST}.partial"
        link.unlink(missing_ok=True)
        link.symlink_to(best.candidate, target_is_directory=True)
        link.replace(self._out / BEST)

    @property
    def _best(self) -> Decision | None:
        """The best candidate; of equal ones the newest."""
        sign = 1 if self._watched.stage.validation.best_mode == "max" else -1
        rated = [one for one in self._fitted if one.value is not None]
        return max(reversed(rated), key=lambda one: sign * (one.value or 0.0), default=None)

    def _record(
        self, measured: MeasuredVersion, outcome: Outcome, reason: str, seconds: float = 0.0
    ) -> None:
        """Log a decision, and print it."""
        best = self._best_before(measured)
        compared = None if best is None else measured.against(best)
        fitted = outcome is Outcome.FITTED
        decision = Decision(
            version=str(measured.version),
            step=measured.step,
            outcome=outcome,
            reason=reason,
            metric=self._watched.stage.validation.metric,
            value=self._value(measured),
            accuracy=measured.figures["val/accuracy"],
            unparsed_frac=measured.figures["val/unparsed_frac"],
            num_clips=len(measured.answers),
            measured_at=measured.measured_at,
            against=None if best is None else str(best.version),
            difference=None if compared is None else compared.difference,
            difference_low=None if compared is None else compared.difference_low,
            difference_high=None if compared is None else compared.difference_high,
            candidate=f"{CANDIDATES}/{measured.version}" if fitted else None,
            seconds=seconds,
        )
        self._log.add(decision)
        shutil.rmtree(work_folder(self._folder(measured)), ignore_errors=True)
        self._say(describe(decision, self._watched.stage.name))
        if fitted:
            self._published(self._folder(measured))

    def _summary(self, state: State, why: str) -> WatchSummary:
        return WatchSummary(
            state=state,
            why=why,
            num_versions=len(self._log.decisions),
            fitted=tuple(self._fitted),
            best=self._best,
        )


def describe(decision: Decision, stage: str) -> str:
    """A line about a decision."""
    value = "not finite" if decision.value is None else f"{decision.value:.3f}"
    text = f"{stage} step {decision.step} (version {decision.version}): {decision.metric} {value}"
    if decision.difference is not None:
        text += (
            f", accuracy {decision.difference:+.3f} [{decision.difference_low:+.3f}, "
            f"{decision.difference_high:+.3f}] against {decision.against}"
        )
    outcome = (
        f"{decision.outcome} into {decision.candidate}" if decision.candidate else decision.outcome
    )
    why = f" ({decision.reason})" if decision.reason else ""
    return (
        f"{text} on {decision.num_clips} val clips, {decision.unparsed_frac:.1%} unparsed: "
        f"{outcome}{why}"
    )
