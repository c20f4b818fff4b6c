"""Rejection sampling: a policy's own traces that earned the full reward, to fine-tune it on.

places -> groups (archived ones are taken up) -> traces with full reward, each text of a clip once

RFT (Yuan et al. 2023, arXiv 2308.01825).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from cluster.config.kinds.sft import SftStage
from cluster.driver.bounded import run_bounded
from cluster.driver.progress import progress_bar
from cluster.resume.archived_groups import group_id_of
from cluster.resume.taken_up import find_written, same_weights
from cluster.session import Session
from cluster.stages.failure_limits import refuse_failures
from cluster.stages.grpo.training_groups import TrainingGroupWriter, groups_in_flight
from cluster.stages.spilled_rows import SpilledRows
from cluster.stages.stage import StageRun
from learner.shared_prefix.rows import supervised_row
from reward.config import RewardTerm
from rollout.render import Renderer
from rollout.sampler import Sampler
from wire.daemon_thread import run_in_daemon_thread
from wire.errors import DataError
from wire.types import Score, Trace, TraceGroup, stable_hash

_AT_ONCE = 256  # groups held in memory


class KeptTraces:
    """Traces with full reward, as rows, and the cost of all traces."""

    def __init__(self, terms: Sequence[RewardTerm], renderer: Renderer, rows: SpilledRows) -> None:
        self._parts = [term.part for term in terms if term.weight > 0]
        self._renderer = renderer
        self.rows = rows
        """One row per trace kept."""
        self._kept: set[tuple[str, str]] = set()  # clip, and hash of the text
        self.cost = {"num_rollouts": 0, "num_generated_tokens": 0}
        """Traces and tokens written, kept or not."""

    @property
    def figures(self) -> dict[str, Any]:
        """Counts for done.json."""
        return {
            "num_rollouts": self.cost["num_rollouts"],
            "num_kept": len(self._kept),
            "num_clips_kept": len({sample_id for sample_id, _ in self._kept}),
        }

    def add(self, group: TraceGroup) -> None:
        """Count a group, keep its traces with full reward."""
        for trace in group.traces:
            self.cost["num_rollouts"] += 1
            self.cost["num_generated_tokens"] += len(trace.completion.token_ids)
            text = trace.completion.text
            if group.prompt is not None and self._is_full(trace):
                key = (group.sample.id, stable_hash(text))
                if key not in self._kept:
                    self._kept.add(key)
                    target = self._renderer.target(text)
                    self.rows.append(supervised_row(group.prompt, group.sample.video, target))

    def _is_full(self, trace: Trace) -> bool:
        """Whether every term that adds to the reward, and applies, gives 1 or more."""
        score = trace.outcome
        return isinstance(score, Score) and all(score.parts.get(p, 1) >= 1 for p in self._parts)


async def write_own_traces(session: Session, run: StageRun) -> KeptTraces:
    """Write ``num_groups`` groups with the weights in the engines, as a GRPO of this name would ask
    for them, and keep the traces with full reward. Raises DataError if there is none."""
    stage, config = run.of(SftStage), session.config
    assert stage.num_groups is not None, "read_stage gives it a value"
    clips = stage.clips.of(session.data.samples)
    places = {group_id_of(stage.name, place) for place in range(stage.num_groups)}
    weights = same_weights(
        config,
        session.run_dir,
        stage.name,
        session.version(session.engine_weights_step),
        trained=False,
    )
    archived = await run_in_daemon_thread(
        find_written,
        session.run_dir.archive,
        stage.name,
        places,
        weights,
        config.rollout.group_size,
    )
    kept = KeptTraces(config.reward.terms, session.renderer, SpilledRows(session.run_dir.path))
    await _write_groups(
        TrainingGroupWriter(
            session.writer, stage.name, archived, config.rollout, seed=config.training_seed
        ),
        Sampler(clips, config.seed, balanced=stage.class_balanced),
        kept,
        name=stage.name,
        num_groups=stage.num_groups,
        max_failure_frac=config.reward.max_failure_frac,
        max_in_flight=groups_in_flight(config),
        compact=partial(session.archive.compact, session.engine_weights_step),
    )
    if not len(kept.rows):
        raise DataError(
            f"none of {kept.cost['num_rollouts']} traces earned the full reward (every term 1), so "
            f"{stage.name} has nothing to learn from; leave it out of "
            f"{'the stages' if run.exports else 'controls.arms'}"
        )
    return kept


async def _write_groups(
    writer: TrainingGroupWriter,
    sampler: Sampler,
    kept: KeptTraces,
    *,
    name: str,
    num_groups: int,
    max_failure_frac: float,
    max_in_flight: int,
    compact: Callable[[], object],
) -> None:
    """Write the groups of the first places, and keep what is right, in the order of the places.
    Raises TooManyFailures."""
    with progress_bar(f"{name} traces", num_groups) as bar:
        for start in range(0, num_groups, _AT_ONCE):
            groups: dict[int, TraceGroup] = {}

            async def write(number: int, start: int = start, groups: Any = groups) -> None:
                place = start + number
                groups[place] = await writer.write(sampler.at(place), place)
                bar.advance()

            count = min(_AT_ONCE, num_groups - start)
            await run_bounded(count, max_in_flight, write)
            refuse_failures(list(groups.values()), max_failure_frac)
            for place in sorted(groups):
                kept.add(groups[place])
            await run_in_daemon_thread(compact)
