"""Guards against reward hacking: check each GRPO step for signs of it, and warn once.

    groups of a step -> reward/hacking.py, hacking_alerts.py -> figures, warnings, AlertState
    their prompts, as tokens -> text around the clip

Prompts are read from the tokens that the engine saw, not from the sample they were made of.
"""

import functools
import logging
from collections.abc import Sequence

from reward.config import RewardConfig
from reward.hacking import TraceReader, hacking_figures, prompt_figures
from reward.hacking_alerts import AlertState, steps_before_alert, update_alerts
from rollout.prompt import Prompts
from rollout.render import Renderer
from wire.types import TraceGroup

log = logging.getLogger(__name__)

_MAX_PROMPTS = 4096
"""Prompt texts that are cached: most groups have the same one."""


class HackingGuards:
    """Guards against reward hacking of one training."""

    def __init__(
        self,
        reward: RewardConfig,
        prompts: Prompts,
        renderer: Renderer,
        name: str,
        state: AlertState,
        *,
        groups_per_step: int,
    ) -> None:
        """``name``: of the stage or arm; ``state``: where its checkpoint stood."""
        self.state = state
        """State after the last step, for the checkpoint."""
        self._name = name
        self._around_clip = renderer.around_clip
        self._text = functools.lru_cache(_MAX_PROMPTS)(renderer.text)
        self._groups_per_step = groups_per_step
        self._reader = TraceReader.of(reward, prompts.labels)
        self._num_labels = len(prompts.labels.names)
        self._bare = renderer.text_of(prompts.bare())

    def check_step(
        self, groups: Sequence[TraceGroup], mean_length: float | None
    ) -> dict[str, float]:
        """Figures of a step; ``mean_length``: of its traces, if it has any."""
        figures = hacking_figures(groups, self._reader)
        asked = [
            (group.sample.label, self._text(self._around_clip(group.prompt)))
            for group in groups
            if group.prompt is not None
        ]
        figures |= prompt_figures(asked, self._bare, self._reader.words, self._num_labels)
        length = {} if mean_length is None else {"response_length/mean": mean_length}
        seen = update_alerts(self.state, {**length, **figures}, self._groups_per_step)
        self.state = seen.state
        for alert in seen.begun:
            steps = steps_before_alert(self._groups_per_step)
            log.warning(
                "%s: reward hacking? %s; for %d steps now (docs/rewards.md, Guards)",
                self._name,
                alert,
                steps,
            )
        for title in seen.ended:
            log.warning("%s: no longer: %s", self._name, title)
        return {**figures, **seen.figures}
