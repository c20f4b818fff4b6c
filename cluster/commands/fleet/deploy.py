"""The command deploy: files that start a run on a Kubernetes or SLURM cluster."""

import argparse
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from cluster.commands.base import add_command, add_from, add_recipe, say, settings
from wire.errors import ConfigError


def _deploy(options: argparse.Namespace) -> None:
    from wire.whole_file import whole_file

    text = _kuberay(options) if options.kuberay else _slurm(options)
    if options.out is None:
        sys.stdout.write(text)
        return
    try:
        with whole_file(options.out) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write {options.out}: {error.strerror}; give --out the path of a file"
        ) from error
    start = "kubectl apply --filename" if options.kuberay else "sbatch"
    say(f"written to {options.out}; start it with: {start} {options.out}")


def _kuberay(options: argparse.Namespace) -> str:
    from cluster.config.recipe import read_recipe, read_recipe_values
    from cluster.deploy.kuberay import KubeRay, job_name, kuberay_manifest, labels_of, volume_of
    from cluster.deploy.node_groups import PerNode

    if options.image is None or not options.pvc:
        raise ConfigError(
            "--kuberay needs --image IMAGE, with Ray and our dependencies, and --pvc CLAIM:PATH, "
            "the volume with videos, model and runs"
        )
    overrides = settings(options)
    config = read_recipe(options.recipe, overrides)
    volumes = tuple(map(volume_of, options.pvc))
    name = options.name or job_name(options.recipe.stem)
    per_node = PerNode(
        workers=options.workers_per_node,
        ranks=options.ranks_per_node,
        worker_gb=options.worker_gb,
        rank_gb=options.rank_gb,
    )
    where = KubeRay(
        name=name,
        image=options.image,
        volumes=volumes,
        run_dir=PurePosixPath(options.run_dir or volumes[0].mount / "runs" / name),
        namespace=options.namespace,
        code=options.code and PurePosixPath(options.code),
        rollout_nodes=labels_of(options.rollout_nodes),
        retries=options.retries,
        per_node=per_node,
    )
    return kuberay_manifest(config, read_recipe_values(options.recipe, overrides), where)


def _slurm(options: argparse.Namespace) -> str:
    from cluster.config.recipe import read_recipe
    from cluster.deploy.slurm import Slurm, slurm_script

    overrides = settings(options)
    name = options.name or options.recipe.stem
    where = Slurm(
        name=name,
        recipe=options.recipe.resolve(),
        run_dir=Path(options.run_dir or f"runs/{name}").resolve(),
        overrides=tuple(overrides),
        gpus_per_node=options.gpus_per_node,
        cpus_per_node=options.cpus_per_node,
        time=options.time,
        options=tuple(options.sbatch),
        setup=tuple(options.setup),
        retries=options.retries,
    )
    return slurm_script(read_recipe(options.recipe, overrides), where)


def _count(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) <= 100_000):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number above 0")
    return int(text)


def _retries(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _gb(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = 0.0
    if not 0 < amount < 100_000:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected GB such as 64")
    return amount


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "write what starts a run on a cluster: a RayJob for KubeRay, a batch script for SLURM"
    deploy = add_command(commands, "deploy", text, _deploy)
    add_recipe(deploy)
    add_from(deploy)
    kind = deploy.add_mutually_exclusive_group(required=True)
    kind.add_argument("--kuberay", action="store_true", help="a ConfigMap and a RayJob, as YAML")
    kind.add_argument("--slurm", action="store_true", help="a batch script for sbatch")
    deploy.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")
    deploy.add_argument("--name", help="of the job; default: the recipe's")
    deploy.add_argument(
        "--run-dir", help="as the cluster sees it; default: runs/NAME, on the first volume"
    )
    deploy.add_argument(
        "--retries",
        type=_retries,
        default=3,
        metavar="N",
        help="times that a run which failed is started anew, to go on; default: 3",
    )
    _add_kuberay(deploy.add_argument_group("with --kuberay"))
    _add_slurm(deploy.add_argument_group("with --slurm"))


def _add_kuberay(group: Any) -> None:
    group.add_argument("--image", help="container image with Ray and our dependencies")
    group.add_argument(
        "--pvc",
        action="append",
        default=[],
        metavar="CLAIM:PATH",
        help="a volume that all pods mount there (/shared), for many writers; may be given again",
    )
    group.add_argument(
        "--code", metavar="DIR", help="our checkout on a volume, if not in the image"
    )
    group.add_argument("--namespace", help="of Kubernetes; default: kubectl's")
    group.add_argument(
        "--rollout-nodes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="label (and taint) of the nodes for rollout pods, such as those of spot nodes",
    )
    group.add_argument(
        "--workers-per-node",
        type=_count,
        default=1,
        metavar="N",
        help="of a rollout pod; default: 1",
    )
    group.add_argument(
        "--ranks-per-node",
        type=_count,
        metavar="N",
        help="of a learner pod; default: what 8 GPUs hold",
    )
    for who in ("worker", "rank"):
        help_ = f"memory for each {who}; default: estimated from the model, or 32"
        group.add_argument(f"--{who}-gb", type=_gb, metavar="X", help=help_)


def _add_slurm(group: Any) -> None:
    group.add_argument(
        "--gpus-per-node", type=_count, default=8, metavar="N", help="of a node; default: 8"
    )
    group.add_argument(
        "--cpus-per-node", type=_count, metavar="N", help="of a node; default: what the recipe asks"
    )
    group.add_argument("--time", default="24:00:00", help="of one start; default: 24:00:00")
    group.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="an option of sbatch, such as partition=gpu; may be given again",
    )
    group.add_argument(
        "--setup",
        action="append",
        default=[],
        metavar="LINE",
        help="a line of shell before all else, such as 'source /shared/venv/bin/activate'",
    )
