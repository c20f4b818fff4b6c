"""Parameters of a built-in reward: read with the recipe, checked against the task's labels.

[reward.terms.params] -> Params (typos refused) -> refuse_unfit(labels, limit) -> **arguments()
"""

from collections.abc import Iterable
from typing import Any

from wire.config import Config
from wire.errors import ConfigError
from wire.labels import LabelSet
from wire.nearest import nearest


class Params(Config):
    """Parameters of one built-in; this one has none. Each family extends it by its own fields."""

    def refuse_unfit(self, labels: LabelSet, max_response_length: int | None) -> None:
        """Raise ConfigError if these parameters do not fit the task; before anything starts."""

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of the built-in's function."""
        return {name: getattr(self, name) for name in type(self).model_fields}


def refuse_unknown_labels(key: str, names: Iterable[str], labels: LabelSet) -> None:
    """Raise ConfigError if one of ``names`` is no label of the task; the message names the
    nearest."""
    for name in names:
        if labels.find(name) is None:
            advice = nearest(name, labels.names, "labels")
            raise ConfigError(f"{key} names {name!r}, which is no label of the task; {advice}")


def refuse_incomplete_labels(key: str, names: Iterable[str], labels: LabelSet) -> None:
    """Raise ConfigError unless ``names`` are all labels of the task, each once, in any order."""
    given = list(names)
    refuse_unknown_labels(key, given, labels)
    folded = [name.strip().casefold() for name in given]
    missing = [name for name in labels.names if name.casefold() not in folded]
    if missing:
        raise ConfigError(f"{key} lacks the labels {missing}; name every label of the task once")
    if len(folded) != len(labels.names):
        twice = sorted({name for name in folded if folded.count(name) > 1})
        raise ConfigError(f"{key} names {twice} more than once; name every label once")


def position(name: str, names: Iterable[str]) -> int:
    """Index of a label in ``names``, ignoring case and outer space. The label is known to be
    there."""
    wanted = name.strip().casefold()
    return [other.strip().casefold() for other in names].index(wanted)
