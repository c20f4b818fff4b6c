import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cluster.metrics.catalogue import METRICS, describe, pool, verl_names
from cluster.metrics.events import Event
from cluster.metrics.fleet_figures import COUNTED, STATES, FleetFigures
from cluster.metrics.learning_guards import FAULTS
from cluster.stages.evaluation import evaluate_policy
from cluster.stages.grpo.stage import train_grpo
from cluster.stages.rationales import logged
from learner.config import GrpoLossConfig
from learner.objective.loss import LossInputs, grpo_loss, supervised_loss
from learner.shared_prefix.rows import StepCounts
from rollout.rationales.judge import FilterCounts
from tests.cluster.session_fakes import (
    FIRST_STEP,
    NAMES,
    TEACHER,
    grpo_run,
    make_config,
    make_run_dir,
    make_samples,
    open_fakes,
    run_one,
)
from wire.types import Sample, Split

# What the learner's ranks add beside their losses (learner/worker.py), some on GPUs only.
OF_WORKER = {
    "cache/embedding_hit_rate",
    "entropy",
    "grad_norm",
    "update_skipped",
    "shared_prefix/used",
    "shared_prefix/self_check",
    "shared_prefix/self_check_float32",
    "parity/noise",
    "learning_rate",
    "learning_rate/merger",
    "learning_rate/vision_tower",
    "timing_s/wait_clips",
}
# What a sending of the weights adds (learner/worker.py, cluster/actors/rollout_actor.py), where an
# engine fails in it also what was lost (cluster/weight_sync/prove_before_serving.py).
PARTS = ("gather_s", "pack_s", "wait_s", "send_s", "load_s", "lost_s")
OF_TRANSFER = {"weights/gb", "weights/gb_per_s"} | {f"weights/{part}" for part in PARTS}
# Of Ray's ranks alone (cluster/actors/rank_calls.py).
OF_RANKS = {"trainer/idle_ratio", "trainer/idle_ratio_max"}
OF_ALL = OF_WORKER | OF_TRANSFER | OF_RANKS
# Only where a reward function fails, or none applies to a trace (reward/stats.py).
OF_MASKED = {"reward/not_applicable_frac", "reward/mine/failed_frac"}
# Only where a training learns nothing (cluster/metrics/learning_guards.py).
OF_FAULTS = {f.count for f in FAULTS} | {f.streak for f in FAULTS}
OF_FAULTS |= {f"learning/num_{f.unit}" for f in FAULTS}
# Of stages that write rationales (cluster/stages/rationales.py).
OF_RATIONALES = {f"why/{name}" for name in logged(FilterCounts(()))}
ON_GPU = {"perf/max_memory_allocated_gb", "perf/max_memory_reserved_gb"}


def right_at_times(weights: str, sample: Sample, index: int) -> str:
    """Every other trace, but always on the first clip, which teaches nothing then."""
    label = sample.label if index == 0 or sample.id == "train-0" else "none of them"
    return f"<think>up</think><answer>{label}</answer>"


async def names_of_a_run(path: Path) -> set[tuple[str, str]]:
    """Stage and name of all that a cold start, GRPO and evaluations write; engines are fakes."""
    samples = [replace(s, trace=TEACHER) if s.split is Split.VAL else s for s in make_samples()]
    grpo = {"num_steps": 2, "groups_per_step": 4, "groups_per_update": 2, "save_every": 1}
    filtering = {"enable": True, "max_num_gen_batches": 2}
    grpo |= {"loss": {"kl_loss_coef": 0.1}, "filter_groups": filtering}
    mine = path / "mine.py"
    mine.write_text("def per_group(completions):\n    return [1.0 for _ in completions]\n")
    functions = ("accuracy", "format", f"{mine}:per_group")
    reward = {"terms": [{"function": function} for function in functions]}
    validate = {"every": 1}
    config = make_config(
        grpo=grpo,
        reward=reward,
        deterministic=True,
        validate=validate,
        rollout={"group_size": 2, "dtype": "float32", "sleep": True},
    )
    run_dir = make_run_dir(path, config)
    with open_fakes(config, run_dir, samples, ("base", FIRST_STEP)) as opened:
        session, engines, _, metrics = opened
        engines.write = right_at_times
        await run_one(session, "coldstart")
        await train_grpo(session, grpo_run(session))
        await evaluate_policy(session, "grpo", session.data.of(Split.TEST), 0.01)
        await session.scorer.close()
    run_dir.close()
    return metrics.names


def names_of_losses() -> set[str]:
    """All that the real losses report."""
    ones, mask = torch.ones(2), torch.ones(2, dtype=torch.bool)
    inputs = LossInputs(
        logp=-ones,
        logp_old=-ones,
        logp_rollout=-ones,
        logp_ref=-ones,
        advantage=ones,
        mask=mask,
        lengths=[2],
    )
    of_grpo = grpo_loss(inputs, StepCounts(2, 1), GrpoLossConfig())
    of_sft = supervised_loss(-ones, ones, mask, 2)
    return {*of_grpo.sums, *of_grpo.maxima, *of_sft.sums, *of_sft.maxima}


def names_of_a_fleet() -> set[str]:
    """All that a run writes of a fleet to which everything has happened."""
    figures = FleetFigures()
    states = [{"state": state, "before": "dead"} for state in STATES]
    kinds = [("worker_state", fields) for fields in states]
    for kind, fields in (*kinds, *((kind, {}) for kind in COUNTED)):
        figures.observe(Event(kind=kind, subject=f"{kind}-{fields}", fields=fields))
    return set(figures.of_step())


async def test_every_figure_that_is_written_is_in_the_table(tmp_path: Path):
    written = await names_of_a_run(tmp_path)
    assert ("grpo", "reward/mean") in written
    assert ("eval", "grpo/accuracy") in written
    unknown = [(stage, name) for stage, name in written if describe(name, stage) is None]
    assert not unknown
    assert None not in {describe(name, "eval") for name in OF_RATIONALES}
    assert not [
        name
        for name in names_of_a_fleet() | names_of_losses() | OF_WORKER | OF_TRANSFER | OF_FAULTS
        if describe(name) is None
    ]


async def test_every_row_of_the_table_is_written_by_something(tmp_path: Path):
    written = await names_of_a_run(tmp_path)
    found = {describe(name, stage) for stage, name in written}
    found |= {
        describe(name)
        for name in names_of_a_fleet() | names_of_losses() | OF_ALL | OF_MASKED | ON_GPU | OF_FAULTS
    }
    brier = describe("base/brier", "eval")  # of classifiers that give probabilities
    taken_up = describe("base/num_taken_up", "eval")  # of stages that a kill interrupted
    found |= {describe(name, "eval") for name in OF_RATIONALES}
    assert [m.name for m in METRICS if m not in found | {brier, taken_up}] == []


async def test_what_the_issue_asks_for_is_written(tmp_path: Path):
    names = {name for stage, name in await names_of_a_run(tmp_path) if stage == "grpo"}
    wanted = {f"label/{label}/accuracy" for label in NAMES[:1]} | {"cache/prefix_hit_rate"}
    wanted |= {"finish_reason/stop", "finish_reason/length", "timing_s/gen", "perf/throughput"}
    wanted |= {"val/accuracy", "val/macro_f1", "val/reward/mean", "val/response_length/mean"}
    assert wanted <= names


def test_an_exact_name_is_described_before_a_family():
    metric = describe("reward/std")
    assert metric is not None
    assert metric.name == "reward/std"
    family = describe("reward/a/b/std")
    assert family is not None
    assert family.name == "reward/<part>/std"
    assert describe("no/such") is None
    assert describe("grpo/accuracy") is None, "only evaluations have it"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kl", 2.0),
        ("reward/max/mean", 2.0),  # of a reward function called "max"
        ("label/max/reward", 2.0),
        ("response_length/max", 3.0),
        ("parity/max_logprob_diff", 3.0),
        ("perf/max_memory_allocated_gb", 3.0),
        ("reward/min", 1.0),
        ("rollout/next_place", 2.0),
        ("learning/skipped", 2.0),
        ("guard/one_label/flagged", 3.0),
        ("a_name_that_nobody_knows", 2.0),
    ],
)
def test_figures_are_pooled_as_what_they_are(name: str, expected: float):
    assert pool(name, [1.0, 3.0, 2.0]) == expected


def test_what_is_not_finite_enters_no_mean_and_does_not_vanish_in_a_maximum():
    assert pool("grad_norm", [math.nan, 2.0, math.inf]) == 2.0
    assert math.isnan(pool("grad_norm", [math.nan]))
    assert math.isnan(pool("parity/max_logprob_diff", [1.0, math.nan]))
    assert math.isnan(pool("parity/max_logprob_diff", [math.nan, 1.0]))


def test_verls_names_add_up_what_verl_counts_together():
    found = verl_names(
        {"clip_frac/low": 0.25, "clip_frac/high": 0.5, "kl": 0.1, "staleness/max": 1}
    )
    assert found == pytest.approx({"actor/pg_clipfrac": 0.75, "actor/ppo_kl": 0.1})
    assert math.isnan(verl_names({"kl": math.nan})["actor/ppo_kl"])
