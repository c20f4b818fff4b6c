"""Settings of ``deepintuit serve``: a TOML file, options over it, and what the target says."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calibrate.service.config import ServiceConfig
from cluster.serving.target import Target
from wire.config import validate
from wire.errors import ConfigError

_LISTS_OF_PATHS = ("roots",)
_TABLES_OF_PATHS = ("archives",)


def service_config(target: Target, file: Path | None, options: Mapping[str, Any]) -> ServiceConfig:
    """Settings of the service: an option that is given replaces the file's. Relative paths of the
    file start at its folder. Raises ConfigError that names every mistake."""
    values = _read(file) if file is not None else {}
    if "state" in values:
        raise ConfigError(f"{file}: state is no setting of the file; give --state")
    values |= {name: value for name, value in options.items() if value not in (None, [], ())}
    archives = values.setdefault("archives", {})
    if isinstance(archives, dict):  # what else it may be, the model refuses
        values["archives"] = {**target.archives, **archives}
    values["state"] = target.state
    return validate(ServiceConfig, values, source=str(file or "the options"))


def _read(file: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read --config {file}: {error.strerror}; give the path of a .toml file"
        ) from error
    except ValueError as error:  # also text that is no UTF-8
        raise ConfigError(f"--config {file} is not valid TOML: {error}; mend that line") from error
    folder = file.resolve().parent
    for name in _LISTS_OF_PATHS:
        if isinstance(paths := values.get(name), list):
            values[name] = [_absolute(path, folder) for path in paths]
    for name in _TABLES_OF_PATHS:
        if isinstance(paths := values.get(name), dict):
            values[name] = {key: _absolute(path, folder) for key, path in paths.items()}
    return values


def _absolute(path: Any, folder: Path) -> Any:
    return folder / Path(path).expanduser() if isinstance(path, str) else path
