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
        ("limit/learner", "share", "step",
         "the learner computes logprobs or updates, or is healed"),
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
    *rows_of_area(
        "Fleet (docs/timeline.md; counts go on over resumes)",
        ("effective_training_time_ratio", "share", "run",
         "of the wall clock since the stage's first step began, over all attempts: seconds of the "
         "steps that count, less fleet/lost_s"),
        ("fleet/lost_s", "s", "step",
         "of the step's time, in which a learner rank was being healed, failures left no worker "
         "serving, or an update waited for an engine that failed (weights/lost_s)"),
        ("fleet/serving", "workers", "step", "rollout workers that serve, at the end of the step"),
        ("fleet/state/<state>", "workers", "step",
         "rollout workers that are healthy, suspect, dead, restarting, stale, retired (leaving)"),
        ("fleet/epoch", "changes", "run",
         "epoch of membership: changes of the set of engines that run, in this attempt"),
        ("fleet/num_worker_deaths", "deaths", "run", "rollout workers that died"),
        ("fleet/deaths/<cause>", "deaths", "run",
         "of them by cause, such as engine_died, node_died, probe_failed, out_of_memory"),
        ("fleet/num_restarts", "restarts", "run", "of them, restarted"),
        ("fleet/num_joined", "workers", "run", "that came after the start"),
        ("fleet/num_left", "workers", "run", "that left for good"),
        ("fleet/num_moved", "requests", "run", "that went from one worker to another"),
        ("fleet/num_dropped", "groups", "run", "that were written, archived and not trained"),
        ("fleet/num_learner_deaths", "deaths", "run", "learner ranks that died"),
        ("fleet/num_learner_heals", "heals", "run", "of them, healed inside the run"),
        ("fleet/num_reward_restarts", "restarts", "run", "of processes of reward functions"),
        ("fleet/num_decode_restarts", "restarts", "run", "of processes that decode clips"),
        ("fleet/num_stalls", "stalls", "run",
         "times that no step ended for watchdog.stall_timeout_s"),
    ),
)  # fmt: skip
"""Rows of the table in cluster/metrics/catalogue.py."""
