"""The command reward: lints and times reward functions, and writes a first one."""

import argparse
import sys
from pathlib import Path
from typing import Any

from cluster.commands.base import add_command, say, write_json_file
from wire.errors import ConfigError

_NUM_TRACES, _NUM_TOKENS = 4096, 1000


def _lint(options: argparse.Namespace) -> None:
    import asyncio
    from dataclasses import asdict

    from cluster.commands.tables.reward import print_lint
    from cluster.inputs.reward_subject import read_subject
    from reward.tools.lint import count, lint
    from wire.finding import Level

    subject = read_subject(options.subject, options.set)
    reports = asyncio.run(lint(subject))
    print_lint(reports)
    errors, warnings = count(reports, Level.ERROR), count(reports, Level.WARNING)
    if options.json is not None:
        counts = {"passed": not errors, "num_errors": errors, "num_warnings": warnings}
        write_json_file(options.json, {**counts, "terms": [asdict(report) for report in reports]})
    if errors:
        raise ConfigError(
            f"{errors} error{'' if errors == 1 else 's'} in {options.subject}; do what is said "
            "beside each, and lint again"
        )


def _bench(options: argparse.Namespace) -> None:
    import asyncio
    from dataclasses import asdict

    from cluster.commands.tables.reward import print_timings
    from cluster.inputs.reward_subject import read_subject
    from cluster.run_files import read_label_names
    from reward.tools.bench import archived_groups, bench, made_up_groups

    if options.traces < 1 or options.tokens < 1:
        raise ConfigError(
            f"--traces {options.traces} --tokens {options.tokens}: expected numbers from 1"
        )
    subject = read_subject(options.subject, options.set)
    if options.run is not None:
        names = read_label_names(options.run)
        subject, groups = archived_groups(subject, options.run, names, options.traces)
    else:
        groups = made_up_groups(subject, options.traces, options.tokens)
    terms = subject.reward.terms
    asked = [term for term in terms if term.function != "judge"]
    timings = [asyncio.run(bench(subject, term, groups)) for term in asked]
    print_timings(timings, [term.part for term in terms if term not in asked])
    if options.json is not None:
        rows = [
            {**asdict(timing), "traces_per_s": timing.traces_per_s, "overhead_s": timing.overhead_s}
            for timing in timings
        ]
        write_json_file(options.json, {"terms": rows})


def _new(options: argparse.Namespace) -> None:
    from reward.tools.template import recipe_lines, write_starter

    reward, test = write_starter(options.name, options.dir, options.style)
    say(f"wrote {reward} and {test}; put this into a recipe:")
    sys.stdout.write(recipe_lines(options.name, reward))
    say(f"then: pytest {test}; deepintuit reward lint {reward}:{options.name}")


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "write and try rewards: faults, speed, a file to begin with"
    reward = commands.add_parser("reward", help=text, description=text)
    tools = reward.add_subparsers(dest="tool", required=True)
    lint = add_command(tools, "lint", "load rewards, try them on good and bad traces", _lint)
    _add_subject(lint)
    bench = add_command(tools, "bench", "traces per second, and what a process costs", _bench)
    _add_subject(bench)
    bench.add_argument(
        "--run", type=Path, metavar="RUN", help="judge the traces of this run, not made-up ones"
    )
    bench.add_argument(
        "--traces",
        type=int,
        default=_NUM_TRACES,
        metavar="N",
        help=f"how many (default: {_NUM_TRACES})",
    )
    bench.add_argument(
        "--tokens",
        type=int,
        default=_NUM_TOKENS,
        metavar="N",
        help=f"words and token ids of a made-up one (default: {_NUM_TOKENS})",
    )
    new = add_command(tools, "new", "write a commented reward and a test that passes", _new)
    new.add_argument("name", metavar="NAME", help="of the function, and of its file")
    new.add_argument(
        "--style",
        choices=("verl", "trl"),
        default="verl",
        help="once per trace (verl, the default), or once per group (trl)",
    )
    new.add_argument(
        "--dir", type=Path, default=Path("rewards"), metavar="DIR", help="default: rewards"
    )


def _add_subject(command: Any) -> None:
    command.add_argument(
        "subject",
        metavar="SPEC|RECIPE",
        help="file.py:function, package.module:function, a built-in or entry point; or a recipe",
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=c",
        help="override a setting of the recipe, or of the term (params.x=1); may be given again",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write all of it there, too")
