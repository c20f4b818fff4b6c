"""The command line. Heavy imports come after parsing, so that ``--help`` answers at once."""

import argparse
import difflib
import errno
import io
import logging
import re
import sys
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import NoReturn

from cluster.commands import (
    archive,
    check,
    classify,
    compare,
    demo,
    doctor,
    fit,
    import_data,
    init,
    plan,
    prompts,
    report,
    rescore,
    reward,
    run,
    serve,
    split,
    split_benchmark,
    status,
    study,
)
from cluster.commands.base import interrupted, say
from cluster.commands.fleet import deploy, scale, simulate, workers
from cluster.driver import interrupts
from wire.disk import REMEDY, full_disk
from wire.errors import ArchiveError, DeepIntuitError, DiskFull, UserError, root_causes
from wire.printable import printable

_COMMANDS = (
    import_data,
    init,
    check,
    prompts,
    plan,
    simulate,
    scale,
    doctor,
    deploy,
    run,
    status,
    workers,
    report,
    compare,
    study,
    reward,
    rescore,
    archive,
    fit,
    classify,
    serve,
    split,
    split_benchmark,
    demo,
)


# What the system says about a place, not about us: read-only, not ours, no directory.
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 the user can mend it, 1 it failed, 130 interrupted."""
    typed = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(typed, argparse.Namespace(typed=typed))
    _log_to_terminal()
    _flush_each_line()
    interrupts.listen()
    try:
        return int(options.act(options) or 0)
    except KeyboardInterrupt:
        say(interrupted(options))
        return interrupts.STATUS
    except Exception as error:
        if options.debug:
            sys.excepthook = _show_traceback
            raise
        return _fail(error, options)


class _LogFormatter(logging.Formatter):
    """Lines of the log, with text of others as it may be shown on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _log_to_terminal() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_LogFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def _flush_each_line() -> None:
    """Lines to stdout leave at once, also where it is a file or a pipe: the log of a job would
    else lag by the 8 KB of Python's buffer, and lose them when the job is killed."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)


def _show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    say("".join(traceback.format_exception(kind, error, trace)))


class _Parser(argparse.ArgumentParser):
    """One line instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        text = f"error: {message}; {_nearest(message)}see {self.prog} --help\n"
        self.exit(2, printable(text))


def _nearest(message: str) -> str:
    """Advice from argparse's "invalid choice: 'runn' (choose from 'run', 'plan')"."""
    typed, *known = re.findall(r"'([^']*)'", message)[:50] or [""]
    near = difflib.get_close_matches(typed, known, n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="deepintuit", description="Reinforcement learning that teaches video models to reason."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for module in _COMMANDS:
        module.add(commands)
    return parser


def _fail(error: Exception, options: argparse.Namespace) -> int:
    """A line per cause, and the exit status; what nobody foresaw is a bug of ours."""
    causes: Sequence[BaseException] = root_causes(error)
    if (full := full_disk(error, [])) is not None:
        causes = [full if hasattr(options, "resume") else _without_resume(error, full)]
    foreseen = [text for cause in causes if (text := _foreseen(cause)) is not None]
    if len(foreseen) < len(causes):
        from cluster.commands.bug_report import report_bug

        say(f"error: {_one_line(report_bug(error, options))}")
        return 1
    for text in foreseen:
        say(f"error: {_one_line(text)}")
    return (
        1
        if any(isinstance(c, DeepIntuitError) and not isinstance(c, UserError) for c in causes)
        else 2
    )


def _without_resume(error: Exception, full: DiskFull) -> DeepIntuitError:
    """A full disk in a command that begins anew: what the archive says of it, if it was there."""
    if isinstance(error, ArchiveError):
        return ArchiveError(f"{error}; free some and give the command again")
    return DiskFull(str(full).replace(REMEDY, "free some and give the command again"))


def _foreseen(error: BaseException) -> str | None:
    """What to say of an error that is not a bug; None for one that is."""
    if isinstance(error, DeepIntuitError):
        return str(error)
    if not isinstance(error, OSError):
        return None
    if error.errno in _DENIED and error.filename:
        return f"cannot use {error.filename}: {error.strerror}; give a place that you may write to"
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split("\n")).strip()


if __name__ == "__main__":
    sys.exit(main())
