"""The command doctor: checks of this machine."""

import argparse
from pathlib import Path
from typing import Any

from cluster.commands.base import add_command, write_json_file
from wire.errors import ConfigError


def _doctor(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from cluster.doctor.catalogue import all_checks, choose
    from cluster.doctor.runner import run_checks
    from cluster.doctor.table import DoctorTable

    checks = choose(all_checks(options.run_dir), options.only)
    with DoctorTable() as table:
        results = run_checks(checks, quick=options.quick, on_start=table.start, on_end=table.end)
    if options.json is not None:
        write_json_file(options.json, {"checks": [asdict(result) for result in results]})
    if failed := [result.name for result in results if result.status == "failed"]:
        raise ConfigError(
            f"{len(failed)} of {len(results)} checks failed: {', '.join(failed)}; the table says "
            f"what to do, then: deepintuit doctor --only {' '.join(failed)}"
        )


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "is this machine fit to run? small real trials, each with a deadline and a remedy"
    doctor = add_command(commands, "doctor", text, _doctor)
    doctor.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="these checks, such as disk vllm"
    )
    doctor.add_argument("--quick", action="store_true", help="start no engine")
    doctor.add_argument(
        "--run-dir", type=Path, default=Path("runs"), help="where runs will be written"
    )
    doctor.add_argument("--json", type=Path, metavar="FILE", help="write the findings there, too")
