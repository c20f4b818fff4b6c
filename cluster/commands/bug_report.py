"""Reports unexpected errors: the traceback goes into a file, the user gets one line."""

import argparse
import platform
import shlex
import tempfile
import time
import traceback
from pathlib import Path

from cluster.commands.base import run_path
from wire.printable import printable


def report_bug(error: BaseException, options: argparse.Namespace) -> str:
    """Write the traceback to the run directory, or to a temporary file if there is none. Returns
    the line for the user."""
    kind, first = type(error).__name__, next(iter(str(error).splitlines()), "")
    sentence = f"this is a bug of deepintuit: {kind}: {first}"
    command = shlex.join(["deepintuit", *options.typed])
    text = f"{command}\nPython {platform.python_version()}, {platform.platform()}\n\n"
    text += "".join(traceback.format_exception(error))
    text = printable(text)
    try:
        about_run = "recipe" in options and "run_dir" in options
        file = _write(text, run_path(options) if about_run else None)
    except OSError:
        return f"{sentence}; --debug shows where; please report it with that"
    return f"{sentence}; please report it with {file} (--debug shows the traceback here)"


def _write(text: str, run_dir: Path | None) -> Path:
    name = f"bug-{time.strftime('%Y%m%d-%H%M%S')}.txt"
    if run_dir is not None and (run_dir / "run.json").is_file():
        file = run_dir / name
    else:
        file = Path(tempfile.mkdtemp(prefix="deepintuit-")) / name
    file.write_text(text, encoding="utf-8")
    return file
