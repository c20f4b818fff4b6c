"""The archive that a command is given: a run directory, or the archive's own."""

from pathlib import Path

from wire.errors import ConfigError


def archive_directory(given: Path) -> Path:
    """Directory of the archive at or below ``given``. Raises ConfigError if there is none."""
    for directory in (given / "archive", given):
        if (directory / "traces").is_dir() or any(directory.glob("journal-*.bin")):
            return directory
    what = "is a file" if given.is_file() else "is not there"
    if given.is_dir():
        what = "holds no traces"
    raise ConfigError(
        f"{given} {what}; give the directory of a run, such as runs/demo, or an archive of one"
    )
