"""docs/metrics.md, written from the metrics catalogue."""

from cluster.metrics.catalogue import METRICS
from cluster.metrics.metric import Metric


def metrics_page() -> str:
    """Render docs/metrics.md."""
    lines = [_HEAD]
    for area in dict.fromkeys(metric.area for metric in METRICS):
        lines += [f"## {area.replace('``', '`')}", ""]
        lines += ["| name | unit | per | meaning | verl | TRL |", "|---|---|---|---|---|---|"]
        lines += [_row(metric) for metric in METRICS if metric.area == area]
        lines.append("")
    return "\n".join(lines)


def _row(metric: Metric) -> str:
    others = (f"`{name}`" if name else "" for name in (metric.verl, metric.trl))
    meaning = metric.meaning.replace("|", "\\|")
    unit = metric.unit.replace("|", "\\|")
    return f"| `{metric.name}` | {unit} | {metric.per} | {meaning} | " + " | ".join(others) + " |"


_HEAD = """\
# Metrics

Every step of a stage is one line of `metrics.jsonl` (`stage`, `step`, `attempt`, `time`, and the
figures below) and one point of every logger. TensorBoard is always written, to `RUN/tensorboard`;
the rest is a section of the recipe:

```toml
[logging]
wandb = { project = "shapes", entity = "lab" }   # pip install deepintuit[wandb]
mlflow = { experiment = "shapes" }               # pip install deepintuit[mlflow]
prometheus = true                                # the default: through Ray's own metrics
verl_names = true                                # GRPO's figures under verl's names, too
```

In dashboards a figure is named `stage/name`, such as `grpo/reward/mean`; verl's names stand without
a stage. A resumed run goes on in the same W&B and MLflow run. A logger that fails is dropped with
one warning and never ends the run; W&B without a network writes to `RUN/wandb` for `wandb sync`.

In Prometheus each figure is a gauge `ray_deepintuit_NAME` (`_` for `/`) with the labels `run` and
`stage`, on the metrics endpoint of every Ray node; steps are counted by `ray_deepintuit_steps`,
their seconds are the histogram `ray_deepintuit_step_seconds`.

Labels and reward functions give figures their names, so any text may be in one. What a logger does
not take is replaced by `_`, and the name then ends in `_` and 8 digits of a hash of the whole name:
no figure is left out, no two share a name, and a name is the same in every attempt. TensorBoard and
W&B take all but control characters; MLflow letters, digits and `_-. :/`, up to 250 bytes, and a
figure below another is joined by a dot (`label/L/reward.PART`, `learning_rate.merger`); Prometheus
ASCII letters, digits and single `_`. A figure that is not finite (NaN, infinity) is `null` in
`metrics.jsonl` and has no point in a logger.

*Per* says what a mean is over, or what a figure belongs to: a token (sampled or target tokens of
the step, over all ranks), a sequence (one trace), a group (the traces of one clip), an update of
the optimiser (averaged over a step's updates), a step, a clip, the run. A figure without data in a
step is left out, not zero.

Which of generation, reward, learner and weights limits a step, and who is idle, is in
[timeline.md](timeline.md).

This page is written by `make docs` from the table in `cluster/metrics/catalogue.py`.
"""
