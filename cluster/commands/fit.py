"""The command fit: a classifier from the traces of a run or an archive, without a rollout."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.commands.base import add_command, say, write_json_file
from cluster.commands.fit_watch import add_watch, fit_settings, watch

if TYPE_CHECKING:
    from cluster.fitting.fit import FitOrder

_PURPOSES = ("calibration", "train")


def _fit(options: argparse.Namespace) -> None:
    if options.watch:
        watch(options.source, options.out, options)
    else:
        _fit_once(options)


def _fit_once(options: argparse.Namespace) -> None:
    from calibrate.published import PublishedClassifier
    from cluster.driver.interrupts import run_interruptibly
    from cluster.fitting.source import FitRequest, fit_order
    from wire.types import Purpose

    order = fit_order(
        FitRequest(
            source=options.source,
            out=options.out,
            recipe=options.recipe,
            model=options.model,
            stage=options.stage,
            versions=options.versions,
            purpose=Purpose(options.purpose),
            methods=tuple(options.methods or ()),
            settings=fit_settings(options),
            allow_foreign=options.allow_foreign,
        )
    )
    if order.foreign:
        say(f"warning: {order.foreign}")
    result = run_interruptibly(_fitted(order, debug=options.debug), say, lambda: None)
    published = PublishedClassifier.of(result)
    assert published is not None, "a fit publishes a classifier"
    for line in published.lines():
        say(line)
    say(f"{published.method} of policy {published.policy_version} is in {options.out}")
    if options.json:
        write_json_file(options.json, result)


async def _fitted(order: "FitOrder", *, debug: bool) -> dict[str, Any]:
    from cluster.fitting.fit import fit_from_archive
    from cluster.fitting.learner_session import open_learner

    out = order.out.resolve().parent
    async with open_learner(order.config, out, {order.model}, debug=debug) as session:
        return await fit_from_archive(session, order)


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "fit a classifier to the traces of a run or an archive, with a learner alone"
    command = add_command(commands, "fit", text, _fit)
    command.add_argument(
        "source", type=Path, metavar="RUN_OR_ARCHIVE", help="a run's directory, or its archive"
    )
    command.add_argument("out", type=Path, metavar="OUT", help="the classifier directory to make")
    command.add_argument(
        "--recipe", type=Path, help="settings of an archive without its run; over a run's run.json"
    )
    command.add_argument("--model", type=Path, metavar="DIR", help="weights of the policy")
    command.add_argument("--stage", help="the calibration whose settings count; default: the last")
    command.add_argument(
        "--versions",
        metavar="A.B[-C.D]",
        help="learn from the traces of this policy version or range, such as 0.200-0.241; "
        "default: those of the policy that is served",
    )
    command.add_argument(
        "--purpose", choices=_PURPOSES, default="calibration", help="of the traces learned from"
    )
    command.add_argument("--methods", nargs="+", choices=("verdict", "head"), help="what to fit")
    command.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="override a setting"
    )
    command.add_argument(
        "--allow-foreign",
        action="store_true",
        help="fit traces that another policy wrote than the one served, and mark the classifier",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    command.add_argument(
        "--no-label-errors",
        action="store_true",
        help="do not rank the clips learned from by how probably their label is wrong",
    )
    add_watch(command)
