"""RayJob of KubeRay for a run: a head pod with the driver, learner pods, autoscaled rollout pods.

    recipe + image + shared volumes -> ConfigMap (the recipe) + RayJob -> kubectl apply

The pods that write traces may come and go, between what ``rollout.min_workers`` and
``rollout.max_workers`` need; those that learn are as many as the ranks need. A job that fails is
started anew in a new cluster and goes on from the run directory. Written for KubeRay 1.7's RayJob,
``ray.io/v1``.
"""

import importlib.metadata
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os.path import normpath
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from cluster.config.recipe import RunConfig
from cluster.deploy.node_groups import NodeGroup, PerNode, node_groups
from cluster.deploy.recipe_text import recipe_text
from cluster.deploy.run_command import run_command
from wire.config import is_hub_name
from wire.errors import ConfigError

_MAX_NAME = 47  # KubeRay adds to the name of a RayJob, and Kubernetes takes 63
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?", re.ASCII)  # DNS-1035
_MAX_CONFIG_MAP = 1_000_000  # bytes; Kubernetes takes a MiB
_RECIPE_FOLDER = PurePosixPath("/etc/deepintuit")
_HEAD = {"cpu": "4", "memory": "16Gi"}
_IDLE_S = 300  # before a rollout pod that nothing runs on is given back
_KEPT_S = 600  # the cluster after the job, to look at it
_PORTS = {"gcs": 6379, "dashboard": 8265, "client": 10001}


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """Claim of a volume that all pods mount.

    Example:
        Volume(claim="videos", mount=PurePosixPath("/shared"))
    """

    claim: str
    mount: PurePosixPath


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeRay:
    """Kubernetes' side of a run: image, volumes, names, retries."""

    name: str
    image: str
    volumes: tuple[Volume, ...]
    run_dir: PurePosixPath
    namespace: str | None = None
    code: PurePosixPath | None = None
    """A checkout on a shared volume; none: the image has the code."""
    rollout_nodes: Mapping[str, str] = field(default_factory=dict)
    """Labels of the Kubernetes nodes for rollout pods, whose taints of the same key and value they
    tolerate: spot nodes."""
    retries: int = 3
    """New clusters for a job that failed."""
    per_node: PerNode = field(default_factory=PerNode)


def job_name(text: str) -> str:
    """Name of a RayJob, from a recipe's."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return ("" if name[:1].isalpha() else "run-") + name[: _MAX_NAME - 4].strip("-")


def kuberay_manifest(config: RunConfig, values: Mapping[str, Any], where: KubeRay) -> str:
    """The ConfigMap and the RayJob of a run, as YAML; ``values``: the recipe's
    (``read_recipe_values``). Raises ConfigError."""
    _refuse(config, values, where)
    roles = {**values.get("cluster", {}), "role_resources": True}
    roles.pop("address", None)  # inside a job it is the job's own cluster
    text = recipe_text({**values, "cluster": roles})
    if len(text.encode()) > _MAX_CONFIG_MAP:
        raise ConfigError(
            f"the recipe has {len(text.encode()):,} bytes, and a ConfigMap takes "
            f"{_MAX_CONFIG_MAP:,}; shorten its prompts"
        )
    parts = [_config_map(text, where), _ray_job(config, where)]
    return "---\n".join(yaml.dump(part, Dumper=_Dumper, sort_keys=False) for part in parts)


def _refuse(config: RunConfig, values: Mapping[str, Any], where: KubeRay) -> None:
    """Raise ConfigError for names that Kubernetes refuses, and paths that no pod would have."""
    if len(where.name) > _MAX_NAME or not _NAME.fullmatch(where.name):
        raise ConfigError(
            f"--name {where.name}: expected at most {_MAX_NAME} lower-case letters, digits and "
            "hyphens, a letter first and no hyphen last"
        )
    mounts = [volume.mount for volume in where.volumes]
    for what, path in _paths(config, values, where):
        if not any(path.is_relative_to(mount) for mount in mounts):
            raise ConfigError(
                f"{what} = {path} is on no volume that the pods mount "
                f"({', '.join(map(str, mounts)) or 'none'}); put it there, or mount its volume: "
                "--pvc CLAIM:PATH"
            )
    own = [term.function for term in config.reward.terms if ".py:" in term.function]
    if own and where.code is None:
        raise ConfigError(
            f"reward function {own[0]} is a file beside the code, which is not in the image by "
            "itself; give --code DIR, a checkout on a shared volume that has it"
        )


def _paths(
    config: RunConfig, values: Mapping[str, Any], where: KubeRay
) -> list[tuple[str, PurePosixPath]]:
    """Paths that pods must see, with their names."""
    named: list[tuple[str, Path | PurePosixPath | None]] = [
        ("data.manifest", config.data.manifest),
        ("data.media_root", config.data.media_root),
        ("semantic_tokens.tokenizer", _tokenizer(values.get("semantic_tokens", {}))),
        *(("stages.tokenizer", _tokenizer(stage)) for stage in values.get("stages", ())),
        ("--run-dir", where.run_dir),
        ("--code", where.code),
    ]
    if not is_hub_name(str(config.model)):
        named.insert(0, ("model", config.model))
    return [(what, PurePosixPath(normpath(path))) for what, path in named if path is not None]


def _tokenizer(table: Mapping[str, Any]) -> Path | None:
    value = table.get("tokenizer")
    return Path(value) if isinstance(value, str) else None


def _config_map(text: str, where: KubeRay) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(where, f"{where.name}-recipe"),
        "data": {f"{where.name}.toml": text},
    }


def _metadata(where: KubeRay, name: str) -> dict[str, Any]:
    namespace = {"namespace": where.namespace} if where.namespace else {}
    return {"name": name, **namespace}


def _ray_job(config: RunConfig, where: KubeRay) -> dict[str, Any]:
    command = run_command(_RECIPE_FOLDER / f"{where.name}.toml", where.run_dir)
    groups = node_groups(config, where.per_node)
    elastic = any(group.is_elastic for group in groups)
    options = {"version": "v2", "idleTimeoutSeconds": _IDLE_S, "upscalingMode": "Default"}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": _metadata(where, where.name),
        "spec": {
            "entrypoint": _entrypoint(command, where),
            "backoffLimit": where.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": _KEPT_S,
            "rayClusterSpec": {
                "rayVersion": importlib.metadata.version("ray"),
                "authOptions": {"mode": "token"},
                "enableInTreeAutoscaling": elastic,
                **({"autoscalerOptions": options} if elastic else {}),
                "headGroupSpec": _head(where),
                "workerGroupSpecs": [_worker_group(group, where) for group in groups],
            },
        },
    }


def _entrypoint(command: str, where: KubeRay) -> str:
    return f"cd {shlex.quote(str(where.code))} && {command}" if where.code else command


def _head(where: KubeRay) -> dict[str, Any]:
    """The head: Ray's own processes and the driver, no worker."""
    recipe = {"name": "recipe", "configMap": {"name": f"{where.name}-recipe"}}
    container = _container("ray-head", _HEAD, where)
    container["ports"] = [{"name": n, "containerPort": port} for n, port in _PORTS.items()]
    container["volumeMounts"].append({"name": "recipe", "mountPath": str(_RECIPE_FOLDER)})
    pod = {"containers": [container], "volumes": [*_claims(where), recipe]}
    return {"rayStartParams": {"num-cpus": "0"}, "template": {"spec": pod}}


def _worker_group(group: NodeGroup, where: KubeRay) -> dict[str, Any]:
    sizes = {"cpu": str(group.cpus), "memory": f"{group.memory_gb}G"}
    if group.gpus:
        sizes["nvidia.com/gpu"] = str(group.gpus)
    pod: dict[str, Any] = {
        "containers": [_container("ray-worker", sizes, where)],
        "volumes": _claims(where),
    }
    if group.role == "rollout_worker" and where.rollout_nodes:
        pod["nodeSelector"] = dict(where.rollout_nodes)
        pod["tolerations"] = [
            {"key": key, "operator": "Equal", "value": value}
            for key, value in where.rollout_nodes.items()
        ]
    resources = json.dumps({group.role: group.per_node})
    return {
        "groupName": group.name,
        "replicas": group.start,
        "minReplicas": group.minimum,
        "maxReplicas": group.maximum,
        "rayStartParams": {"resources": f"'{resources}'"},  # KubeRay hands it to a shell as it is
        "template": {"spec": pod},
    }


def _container(name: str, sizes: Mapping[str, str], where: KubeRay) -> dict[str, Any]:
    env = {"PYTHONUNBUFFERED": "1"}
    if where.code:
        env["PYTHONPATH"] = str(where.code)
    return {
        "name": name,
        "image": where.image,
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "resources": {"limits": dict(sizes), "requests": dict(sizes)},
        "volumeMounts": [
            {"name": f"shared-{n}", "mountPath": str(volume.mount)}
            for n, volume in enumerate(where.volumes)
        ],
    }


def _claims(where: KubeRay) -> list[dict[str, Any]]:
    return [
        {"name": f"shared-{n}", "persistentVolumeClaim": {"claimName": volume.claim}}
        for n, volume in enumerate(where.volumes)
    ]


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
    """YAML with texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, value: str) -> Any:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def volume_of(text: str) -> Volume:
    """The volume that ``CLAIM:PATH`` names; without a path it is mounted at /shared. Raises
    ConfigError."""
    claim, _, mount = text.partition(":")
    path = PurePosixPath(mount or "/shared")
    if not claim or not path.is_absolute() or path == PurePosixPath("/"):
        raise ConfigError(f"--pvc {text}: expected CLAIM:PATH such as videos:/shared")
    return Volume(claim=claim, mount=path)


def labels_of(texts: Sequence[str]) -> dict[str, str]:
    """Labels of nodes from texts ``KEY=VALUE``. Raises ConfigError."""
    labels = dict[str, str]()
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise ConfigError(
                f"--rollout-nodes {text}: expected KEY=VALUE, a label of the nodes for rollout pods"
            )
        labels[key] = value
    return labels
