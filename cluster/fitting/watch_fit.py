"""Fits of a watcher's candidates: each with a learner of its own, which takes memory and cores only
while it fits.

CandidateFit -> traces of the archive -> learner ranks -> cluster/fitting/fit.py -> OUT/candidates/
"""

from collections.abc import Sequence
from pathlib import Path

from calibrate.config import Method
from cluster.config.kinds.calibrate import CalibrateStage
from cluster.config.recipe import RunConfig
from cluster.fitting.fit import FitOrder, fit_from_traces
from cluster.fitting.learner_session import open_learner
from cluster.fitting.watch import CandidateFit
from cluster.fitting.watch_traces import candidate_traces
from wire.daemon_thread import run_in_daemon_thread
from wire.types import Purpose


class RunCandidateFitter:
    """Fits candidates from the archive of a run."""

    def __init__(
        self,
        run: Path,
        stage: str,
        config: RunConfig,
        *,
        methods: Sequence[Method] = (),
        debug: bool = False,
    ) -> None:
        """``stage``: that is watched; ``config``: the run's recipe, with what the fits are to have
        otherwise; ``methods``: what is fitted, if not what the recipe says."""
        self._run, self._stage, self._config, self._debug = run, stage, config, debug
        self._calibration = candidate_calibration(config, methods)

    async def __call__(self, order: CandidateFit) -> str:
        """Fit, and publish the classifier directory. Returns its sources. Raises
        DeepIntuitError."""
        labels, debug = self._config.label_set, self._debug
        traces = await run_in_daemon_thread(candidate_traces, self._run, self._stage, order, labels)
        fit = FitOrder(
            archive=self._run / "archive",
            config=self._config,
            stage=self._calibration,
            model=order.model,
            out=order.out,
            policy=order.version,
            served=frozenset({order.version}),
            learn_from=order.learn_from,
            purpose=Purpose.TRAIN,
            test=None,
        )
        async with open_learner(
            self._config, order.out.parent, [order.model], debug=debug
        ) as session:
            result = await fit_from_traces(session, fit, traces)
        return str(result["classifier"]["method"])


def candidate_calibration(config: RunConfig, methods: Sequence[Method] = ()) -> CalibrateStage:
    """How candidates are fitted: as the last calibration stage of the run, or as ``[calibrate]``
    says. No vote: a version in training has no further traces of its val clips."""
    stages = [stage for stage in config.chain if isinstance(stage, CalibrateStage)]
    stage = stages[-1] if stages else CalibrateStage(**dict(config.calibrate), name="candidate")
    if methods:
        stage = stage.model_copy(update={"methods": tuple(methods), "candidates": ()})
    sources = tuple(source for source in stage.sources if source != "vote")
    # what it learns from are training clips, and none is held out
    return stage.model_copy(update={"candidates": sources, "split": "train", "holdout_frac": 0.0})
