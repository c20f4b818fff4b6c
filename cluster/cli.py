"""The command line. Heavy imports come after parsing, so that ``--help`` answers at once."""

import argparse
import logging
import signal
import sys

from cluster.commands import compare, demo, doctor, import_data, plan, run, study
from cluster.commands.base import say
from wire.errors import DeepIntuitError, UserError

_COMMANDS = (run, plan, doctor, compare, study, demo, import_data)


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 the user can mend it, 1 it failed, 130 interrupted."""
    typed = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(typed, argparse.Namespace(typed=typed))
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        options.act(options)
    except UserError as error:
        return _fail(error, options.debug, 2)
    except KeyboardInterrupt:
        again = "the same command" if options.command in ("study", "controls") else "--resume"
        say(f"interrupted; {again} goes on from the last checkpoint")
        return 130
    except DeepIntuitError as error:
        return _fail(error, options.debug, 1)
    except ExceptionGroup as group:
        if group.split(DeepIntuitError)[1] is not None:
            raise  # a bug of ours: with its traceback
        return _fail(group, options.debug, 1 if group.split(UserError)[1] else 2)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deepintuit", description="Reinforcement learning that teaches video models to reason."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for module in _COMMANDS:
        module.add(commands)
    return parser


def _fail(error: BaseException, debug: bool, status: int) -> int:
    if debug:
        raise error
    for cause in _causes(error):
        say(f"error: {cause}")
    return status


def _causes(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [cause for inner in error.exceptions for cause in _causes(inner)]
    return [getattr(error, "cause", None) or error]  # Ray wraps what an actor raised


def _terminate(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
