"""Directories that a request may name: those below the service's roots, wherever links lead.

    "/data/runs/demo" -> real path -> below a root? -> Path, or Problem 403

For runs, archives and classifiers. Clips are opened more strictly (calibrate/service/intake/).
"""

import os
from collections.abc import Sequence
from pathlib import Path

from calibrate.service.problems import Problem

MAX_PATH = 4096
"""Longest path that Linux takes, in bytes."""


def directory_below(roots: Sequence[Path], text: str | Path) -> Path:
    """Real path of an existing directory below one of the roots, or of a root itself.

    Raises Problem 403 for one that is outside, whether it exists or not, 404 for one that does not
    exist, 422 for a text that is no absolute path.
    """
    name = os.fspath(text)
    if "\0" in name or not name.startswith("/") or len(os.fsencode(name)) >= MAX_PATH:
        raise Problem(
            422,
            "invalid-path",
            f"a path is {name[:80]!r}; expected an absolute one of this service's machine, below "
            f"{MAX_PATH} bytes",
        )
    real = Path(os.path.realpath(name))
    if not any(real.is_relative_to(os.path.realpath(root)) for root in roots):
        raise Problem(
            403,
            "outside-roots",
            f"{name[:200]!r} is not below a directory that this service may read "
            f"({len(roots)} are allowed); copy it there, or restart with --root DIR",
        )
    try:
        real.stat()
        is_directory = real.is_dir()
    except OSError as error:
        raise Problem(
            404, "no-such-directory", f"{name[:200]!r}: {error.strerror}; give a directory"
        ) from error
    if not is_directory:
        raise Problem(404, "no-such-directory", f"{name[:200]!r} is a file; give a directory")
    return real
