import json
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.config.recipe import RunConfig, read_recipe
from cluster.plan.fleet import Fleet, place
from cluster.plan.run_plan import plan_of
from cluster.plan.types import FleetPlan, Phase
from wire.errors import ConfigError

RECIPE = Path(__file__).parents[3] / "recipes/smarthome-7b.toml"
FLEET = Fleet(num_nodes=4, gpus_per_node=8)
WEIGHTS = 2 * 8_292_166_656
SIXTEEN = ("rollout.num_workers=16", "learner.num_ranks=16")


def recipe(*settings: str) -> RunConfig:
    return read_recipe(RECIPE, [*SIXTEEN, *settings])


def planned(*settings: str, fleet: Fleet = FLEET) -> FleetPlan:
    plan = plan_of(recipe(*settings), ("base", "coldstart", "grpo"), None, fleet=fleet)
    assert plan.fleet is not None
    return plan.fleet


def phase(plan: FleetPlan, name: str) -> Phase:
    return next(phase for phase in plan.phases if phase.name.startswith(name))


def test_engines_and_ranks_stand_on_every_node():
    plan = planned()
    assert plan.engines == plan.ranks == (4, 4, 4, 4)
    assert plan.gpus_unused == 0


def test_pairs_share_their_gpu():
    half = ("rollout.num_gpus=0.5", "learner.num_gpus=0.5", "rollout.gpu_memory_utilization=0.5")
    assert place(recipe(*half), FLEET).engines == place(recipe(*half), FLEET).ranks
    assert planned(*half).gpus_unused == 16
    assert planned(*half).shares[0].share == pytest.approx(2 * planned().shares[0].share)


def test_a_planned_cluster_offers_the_roles_that_a_recipe_asks_for():
    config = recipe()
    cluster = config.cluster.model_copy(update={"role_resources": True})
    with_roles = config.model_copy(update={"cluster": cluster})
    assert place(with_roles, FLEET) == place(config, FLEET)


def test_weights_leave_rank_0s_node_once_for_every_other_node():
    assert phase(planned(), "weights to the engines").num_bytes == 3 * WEIGHTS
    nccl = phase(planned("transfer.kind=nccl"), "weights to the engines")
    assert nccl.num_bytes == WEIGHTS
    assert nccl.seconds == pytest.approx(8 * WEIGHTS / 100e9)


def test_zero_3_gathers_weights_for_each_micro_batch_and_stage_1_once():
    three, more = planned(), planned("learner.max_tokens_per_batch=1000000")
    assert phase(three, "ZeRO-3").num_bytes == 3 * phase(more, "ZeRO-3").num_bytes
    one = phase(planned("learner.zero_stage=1"), "ZeRO-1")
    assert one.num_bytes < phase(more, "ZeRO-3").num_bytes
    assert "max_tokens_per_batch" in three.saturates


def test_on_one_node_nothing_crosses_the_network_but_the_drivers():
    plan = planned(fleet=Fleet(num_nodes=1, gpus_per_node=32))
    between = [phase.num_bytes for phase in plan.phases if "node of the learner" in phase.link]
    assert between == [0, 0]
    assert phase(plan, "weights to the engines").num_bytes == 0
    assert plan.saturates.startswith("updates' arithmetic")


def test_memory_that_does_not_suffice_saturates_first():
    plan = planned("learner.zero_stage=1", fleet=Fleet(num_nodes=4, gpus_per_node=8, gpu_gb=24))
    assert plan.saturates.startswith("a learner rank's GPU memory: ")


def test_a_cluster_that_is_too_small_is_refused_with_what_it_lacks():
    with pytest.raises(ConfigError, match="need 32 GPUs, and 2 nodes of 8"):
        place(recipe(), Fleet(num_nodes=2, gpus_per_node=8))


def test_a_recipe_without_gpus_is_not_planned_on_nodes_of_gpus():
    none = ("rollout.num_gpus=0", "learner.num_gpus=0")
    with pytest.raises(ConfigError, match="workers ask for none"):
        place(recipe(*none), FLEET)


def test_the_command_prints_what_saturates_and_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    target = tmp_path / "plan.json"
    arguments = ["plan", str(RECIPE), "--nodes", "4x8", "--json", str(target)]
    for setting in SIXTEEN:
        arguments += ["--set", setting]
    assert main(arguments) == 0
    assert "saturates first: ZeRO-3 in 2 updates" in capsys.readouterr().out
    written = json.loads(target.read_text())
    assert written["fleet"]["engines"] == [4, 4, 4, 4]
    assert written["disk"]["unknown"] == ["calibrated"]


@pytest.mark.parametrize("nodes", ["4", "0x8", "4x0", "x8", "4x8x2", "many"])
def test_a_cluster_that_is_no_cluster_is_refused(nodes: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["plan", str(RECIPE), "--nodes", nodes])
    assert "expected NODESxGPUS such as 4x8" in capsys.readouterr().err


def test_a_network_without_nodes_is_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", str(RECIPE), "--network-gbit", "200"]) == 2
    assert "--network-gbit needs --nodes" in capsys.readouterr().err
