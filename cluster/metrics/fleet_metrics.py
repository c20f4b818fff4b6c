"""Catalogue of the figures of time and of the fleet: what limits a step, idle shares, workers,
heals."""

from cluster.metrics.metric import Metric, rows_of_area

FLEET_METRICS: tuple[Metric, ...] = (
    *rows_of_area(
        "What limits a step (docs/timeline.md says how to read them)",
        ("limit/generation", "share", "step",
         "of the step's time: the learner waits for groups, and a rollout worker answers"),
        ("limit/reward", "share", "step",
         "the learner waits for groups, no worker answers, and a group is being judged"),
        ("limit/learner", "share", "step", "the learner computes logprobs or updates"),
        ("limit/weights", "share", "step", "weights go to the engines, or engines to sleep"),
        ("limit/other", "share", "step",
         "all else: checkpoint, archive, guards, or nobody has work; the five add up to 1"),
        ("rollouter/idle_ratio", "share", "step",
         "of the step's time, in which a rollout worker answers nothing; mean of the workers"),
        ("rollouter/idle_ratio_max", "share", "step", "the idlest worker's"),
        ("trainer/idle_ratio", "share", "step",
         "of the step's time, in which a learner rank has no call; mean of the ranks"),
        ("trainer/idle_ratio_max", "share", "step", "the idlest rank's"),
    ),
)  # fmt: skip
"""Rows of the table in cluster/metrics/catalogue.py."""
