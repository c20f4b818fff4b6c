"""The command serve: the calibration service over HTTP."""

import argparse
import asyncio
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.commands.base import add_command, add_engine_options, engine_machine, say
from wire.errors import ConfigError

if TYPE_CHECKING:
    from calibrate.service.config import ServiceConfig
    from calibrate.service.service import Parts
    from cluster.serving.parts import RayCluster
    from cluster.serving.target import Target

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _serve(options: argparse.Namespace) -> int:
    from cluster.serving.settings import service_config
    from cluster.serving.target import target_of

    target = target_of(options.target, options.state)
    config = service_config(target, options.config, _settings(options))
    if options.new_token is not None:
        return _new_token(config, options.new_token, options.scopes)
    from cluster.classify.machine import count_gpus
    from cluster.serving.parts import service_parts

    machine = engine_machine(options)
    if config.host not in _LOOPBACK:
        say(
            f"listening on {config.host}: tokens and clips cross the network as plain text; put a "
            "proxy with TLS in front"
        )
    gpus = range(count_gpus() if machine.num_gpus else 0)
    cluster = _cluster(options)
    places = machine.in_flight * (cluster.most if cluster else 1)
    config = config.model_copy(update={"max_in_flight": places})
    parts = service_parts(machine, gpus, config, cluster)
    asyncio.run(_run(config, parts, target))
    return 0


def _cluster(options: argparse.Namespace) -> "RayCluster | None":
    """The cluster that ``--ray`` names; None: this machine alone."""
    from cluster.serving.parts import RayCluster

    if options.ray is None:
        if options.replicas is not None:
            raise ConfigError("--replicas are on a Ray cluster; give --ray, too")
        return None
    return RayCluster.of(options.ray, options.replicas or "1")


async def _run(config: "ServiceConfig", parts: "Parts", target: "Target") -> None:
    """Serve until a signal; the second one ends at once."""
    from calibrate.service.http.app import make_app
    from calibrate.service.http.server import serve, signals_stop
    from calibrate.service.service import open_service
    from cluster.driver.interrupts import end_at_once
    from cluster.serving.first_start import first_token, register_target

    stop = asyncio.Event()
    with signals_stop(stop, _say_stopping, end_at_once):
        async with open_service(config, parts) as service:
            if words := await asyncio.to_thread(register_target, service, target):
                say(words)
            secret = await asyncio.to_thread(first_token, service.tokens)
            await serve(
                make_app(service), stop, partial(_say_address, secret, config.state), _say_readiness
            )


def _say_address(secret: str | None, state: Path, url: str) -> None:
    if secret is None:
        say(f"open {url}/ (a new token: deepintuit serve {state} --new-token NAME)")
        return
    say(f"a token with all rights, shown this once: {secret}")
    say(f"open {url}/#token={secret}")


def _say_readiness(reasons: list[str]) -> None:
    say(f"not ready: {'; '.join(reasons)}" if reasons else "ready: clips are answered")


def _say_stopping() -> None:
    with suppress(OSError):  # the terminal may be gone
        say("stopping: requests that were accepted are answered (again: at once) ...")


def _new_token(config: "ServiceConfig", name: str, scopes: str | None) -> int:
    """Print a new token; the service may run beside it."""
    from calibrate.service.caller import SCOPES
    from calibrate.service.state import audit, tokens
    from calibrate.service.state.database import Database

    if scopes is None:
        raise ConfigError(
            f"--new-token {name} needs --scopes, such as classify,read; there are "
            f"{', '.join(SCOPES)}"
        )
    config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database.open(config.database, (audit.SCHEMA, tokens.SCHEMA))
    try:
        given = [scope.strip() for scope in scopes.split(",")]
        secret = tokens.Tokens(database).create(name, given, by="deepintuit serve")
    finally:
        database.close()
    sys.stdout.write(secret + "\n")
    return 0


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Settings of the service that options give."""
    return {
        "host": options.host,
        "port": options.port,
        "roots": [root.resolve() for root in options.root],
        "url_hosts": options.url_host,
        "max_loaded": options.max_loaded,
        "fit_cpus": options.fit_cpus,
        "fit_gpus": [index for index in (options.fit_gpus or "").split(",") if index],
    }


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "serve classifiers over HTTP: decisions, reviews, fits, and a page for the browser"
    command = add_command(commands, "serve", text, _serve)
    command.add_argument(
        "target",
        type=Path,
        metavar="RUN_OR_CLASSIFIER_OR_STATE",
        help="a run with a finished calibration, a classifier's directory, or the state directory "
        "of a service",
    )
    command.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="database, uploads and classifiers of the service; default: TARGET.service",
    )
    command.add_argument("--config", type=Path, metavar="FILE", help="settings (docs/service.md)")
    command.add_argument("--host", help="address to listen on; default: 127.0.0.1")
    command.add_argument("--port", type=int, help="default: 8000; 0: a free one")
    command.add_argument(
        "--root",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="requests may name files below it; may be given again",
    )
    command.add_argument(
        "--url-host",
        action="append",
        default=[],
        metavar="HOST",
        help="clips may be fetched from there; may be given again",
    )
    command.add_argument(
        "--max-loaded", type=int, metavar="N", help="classifiers loaded at once; default: 1"
    )
    _add_machine(command)
    command.add_argument(
        "--new-token", metavar="NAME", help="print a new token and end; needs --scopes"
    )
    command.add_argument("--scopes", metavar="A,B", help="of classify, read, review, fit, admin")


def _add_machine(command: Any) -> None:
    """Options that give cores and GPUs to serving and to fits."""
    add_engine_options(command)
    command.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="run classifiers as replicas on this Ray cluster; without an address that of "
        "RAY_ADDRESS, or a local Ray",
    )
    command.add_argument(
        "--replicas",
        metavar="N or A-B",
        help="of each classifier on the cluster; between A and B as the load wants; default: 1",
    )
    command.add_argument(
        "--fit-cpus", type=int, metavar="N", help="cores for fits; default: half of them"
    )
    command.add_argument(
        "--fit-gpus", metavar="I,J", help="indices of GPUs for fits alone; default: none"
    )
