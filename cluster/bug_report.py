"""An error that nobody foresaw: its traceback goes into a file, the person gets one line."""

import argparse
import platform
import shlex
import tempfile
import time
import traceback
from pathlib import Path


def report_bug(error: BaseException, options: argparse.Namespace) -> str:
    """Write the traceback to the run directory, or to a temporary file if there is none. Returns
    what to say."""
    kind, first = type(error).__name__, next(iter(str(error).splitlines()), "")
    said = f"this is a bug of deepintuit: {kind}: {first}"
    command = shlex.join(["deepintuit", *options.typed])
    text = f"{command}\nPython {platform.python_version()}, {platform.platform()}\n\n"
    text += "".join(traceback.format_exception(error))
    try:
        file = _write(text, _run_dir(options))
    except OSError:
        return f"{said}; --debug shows where; please report it with that"
    return f"{said}; please report it with {file} (--debug shows the traceback here)"


def _run_dir(options: argparse.Namespace) -> Path | None:
    """The run that the command is about; None if it has begun none."""
    recipe = getattr(options, "recipe", None)
    path = getattr(options, "run_dir", None) or (recipe and Path("runs") / recipe.stem)
    return path if path is not None and (path / "run.json").is_file() else None


def _write(text: str, run_dir: Path | None) -> Path:
    name = f"bug-{time.strftime('%Y%m%d-%H%M%S')}.txt"
    if run_dir is not None:
        file = run_dir / name
    else:
        file = Path(tempfile.mkdtemp(prefix="deepintuit-")) / name
    file.write_text(text, encoding="utf-8")
    return file
