"""Target of ``deepintuit serve``: a run, a classifier, or the state directory of a service.

runs/demo -> state runs/demo.service, its classifier, its archive by the name "demo"
models/c1 -> state models/c1.service, the classifier
runs/demo.service -> what is registered there
"""

from dataclasses import dataclass, field
from pathlib import Path

from calibrate.classifier import load_classifier
from calibrate.service.config import DATABASE_FILE
from wire.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is served, and where the service keeps its state."""

    state: Path
    classifier: Path | None = None
    """Directory of the published classifier; none: what is registered in the state directory."""
    source: str = ""
    """Where the classifier comes from, in words."""
    archives: dict[str, Path] = field(default_factory=dict)


def target_of(path: Path, state: Path | None) -> Target:
    """The target at a path; ``state``: the state directory to use instead of the usual one. Raises
    DataError if there is nothing to serve, ConfigError for two state directories."""
    if (path / DATABASE_FILE).is_file():
        if state is not None and state.resolve() != path.resolve():
            raise ConfigError(
                f"{path} is the state directory of a service, and --state names {state}; give one"
            )
        return Target(state=path.resolve())
    classifier = load_classifier(path, check_weights=False)
    whole = path.resolve()
    is_run = (whole / "run.json").is_file()
    has_archive = is_run and (whole / "archive").is_dir()
    return Target(
        state=(state or whole.with_name(f"{whole.name}.service")).resolve(),
        classifier=classifier.path,
        source=f"{'run' if is_run else 'classifier'} {whole}",
        archives={whole.name: whole} if has_archive else {},
    )
