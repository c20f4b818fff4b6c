import json
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.cli import _parser
from cluster.config.recipe import read_recipe, read_recipe_values
from cluster.deploy.kuberay import KubeRay, job_name, kuberay_manifest, labels_of, volume_of
from wire.errors import ConfigError

SCHEMA = Path(__file__).parents[2] / "data/kuberay/rayjob.json"
ELASTIC = """
[rollout]
num_workers = 4
min_workers = 2
max_workers = 20
num_gpus = 1
num_cpus = 4
[learner]
num_ranks = 4
num_gpus = 1
num_cpus = 4
"""
Write = Callable[..., Path]


def where(**more: Any) -> KubeRay:
    given = {
        "name": "my-run",
        "image": "registry.example/deepintuit:1",
        "volumes": (volume_of("videos:/shared"),),
        "run_dir": PurePosixPath("/shared/runs/my"),
    }
    return KubeRay(**(given | more))


def manifest(recipe: Path, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    text = kuberay_manifest(read_recipe(recipe, []), read_recipe_values(recipe, []), where(**more))
    config_map, ray_job = yaml.safe_load_all(text)
    return config_map, ray_job


def strict(schema: Any) -> Any:
    """As Kubernetes reads a schema with strict validation: an unknown field is an error."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(part) for key, part in schema.items()}
    keeps = closed.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(closed.get("properties"), dict) and closed.get("type") == "object" and not keeps:
        closed["additionalProperties"] = False
    return closed


def validator() -> Any:
    schema = strict(json.loads(SCHEMA.read_text()))
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("sections", ["", ELASTIC], ids=["fixed", "elastic"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"namespace": "video", "code": PurePosixPath("/shared/deepintuit"), "retries": 0},
        {"rollout_nodes": {"cloud.google.com/gke-spot": "true"}},
    ],
    ids=["plain", "named", "spot"],
)
def test_a_ray_job_is_valid_by_the_published_schema(
    write_recipe: Write, sections: str, more: dict[str, Any]
):
    _, ray_job = manifest(write_recipe(sections), **more)
    assert [error.message for error in validator().iter_errors(ray_job)] == []


def test_the_schema_refuses_what_a_typo_would_make(write_recipe: Write):
    _, ray_job = manifest(write_recipe(ELASTIC))
    group = ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    group["template"]["spec"]["nodeSelectors"] = {}
    group["minReplicas"] = "2"
    told = " ".join(error.message for error in validator().iter_errors(ray_job))
    assert "nodeSelectors" in told
    assert "'2' is not of type 'integer'" in told


def test_rays_autoscaler_reads_the_bounds_and_resources_of_both_groups(write_recipe: Write):
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr,
    )

    _, ray_job = manifest(write_recipe(ELASTIC))
    spec = ray_job["spec"]["rayClusterSpec"]
    assert spec["enableInTreeAutoscaling"] is True
    cluster = {"metadata": {"name": "c", "namespace": "n"}, "spec": spec}
    kinds = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    rollout, learner = kinds["rollout"], kinds["learner"]
    assert (rollout["min_workers"], rollout["max_workers"]) == (2, 20)
    assert (learner["min_workers"], learner["max_workers"]) == (1, 1)
    assert rollout["resources"].items() >= {"CPU": 4, "GPU": 1, "rollout_worker": 1}.items()
    assert learner["resources"].items() >= {"CPU": 16, "GPU": 4, "learner_rank": 4}.items()
    assert kinds["headgroup"]["resources"]["CPU"] == 0


def test_a_recipe_without_bounds_asks_for_no_autoscaler(write_recipe: Write):
    _, ray_job = manifest(write_recipe())
    spec = ray_job["spec"]["rayClusterSpec"]
    assert spec["enableInTreeAutoscaling"] is False
    assert "autoscalerOptions" not in spec
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]


def test_the_job_runs_the_recipe_of_its_config_map_and_goes_on_when_started_again(
    write_recipe: Write,
):
    config_map, ray_job = manifest(write_recipe(ELASTIC), retries=5)
    ((name, text),) = config_map["data"].items()
    recipe = tomllib.loads(text)
    assert recipe["cluster"]["role_resources"] is True
    head = ray_job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounts = {m["name"]: m["mountPath"] for m in head["containers"][0]["volumeMounts"]}
    words = shlex.split(ray_job["spec"]["entrypoint"])
    assert f"{mounts['recipe']}/{name}" in words
    assert words[words.index("--run-dir") + 1] == "/shared/runs/my"
    options = _parser().parse_args(words[words.index("cluster.cli") + 1 :])
    assert (options.command, options.auto_resume) == ("run", True)
    assert ray_job["spec"]["backoffLimit"] == 5
    assert head["volumes"][-1]["configMap"]["name"] == config_map["metadata"]["name"]


def test_only_rollout_pods_go_to_spot_nodes(write_recipe: Write):
    _, ray_job = manifest(write_recipe(ELASTIC), rollout_nodes=labels_of(["spot=yes"]))
    rollout, learner = ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert rollout["template"]["spec"]["nodeSelector"] == {"spot": "yes"}
    assert rollout["template"]["spec"]["tolerations"][0]["key"] == "spot"
    assert "nodeSelector" not in learner["template"]["spec"]


def test_a_path_that_no_pod_would_see_is_refused(write_recipe: Write):
    with pytest.raises(ConfigError, match=r"--run-dir = /tmp/my is on no volume .*\(/shared\)"):
        manifest(write_recipe(), run_dir=PurePosixPath("/shared/../tmp/my"))
    head = write_recipe().read_text().replace("/shared/data", "/home/me")
    with pytest.raises(ConfigError, match=r"data\.manifest = /home/me/manifest\.jsonl"):
        manifest(write_recipe(head=head))


def test_a_model_of_the_hub_needs_no_volume(write_recipe: Write):
    head = write_recipe().read_text().replace("/shared/models/", "Qwen/")
    config_map, _ = manifest(write_recipe(head=head))
    assert 'model = "Qwen/Qwen2.5-VL-7B-Instruct"' in config_map["data"]["my-run.toml"]


def test_a_reward_function_beside_the_code_needs_the_code_on_a_volume(write_recipe: Write):
    recipe = write_recipe('[reward]\nterms = [{ function = "rewards/mine.py:score" }]\n')
    with pytest.raises(ConfigError, match=r"rewards/mine\.py:score .* --code DIR"):
        manifest(recipe)
    code = PurePosixPath("/shared/my code")
    _, ray_job = manifest(recipe, code=code)
    assert ray_job["spec"]["entrypoint"].startswith("cd '/shared/my code' && python")


def test_a_name_that_kubernetes_refuses_is_refused(write_recipe: Write):
    for name in ("My-Run", "1st", "run-", "r" * 48, "a.b"):
        with pytest.raises(ConfigError, match="lower-case letters, digits and hyphens"):
            manifest(write_recipe(), name=name)
    for text in ("My_Run", "1st", "run-", "r" * 80, "smarthome-7b", "a--b..c"):
        manifest(write_recipe(), name=job_name(text))


def test_an_option_that_is_none_is_refused():
    for text in ("videos:shared", ":/shared", "videos:/"):
        with pytest.raises(ConfigError, match="expected CLAIM:PATH"):
            volume_of(text)
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        labels_of(["spot"])
