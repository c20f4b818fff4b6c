"""Words of a split for the model card: what was split, and what is not promised of its parts.

A split is known by its lines ``split.*`` among the settings of a classifier's provenance.
"""

from collections.abc import Mapping
from typing import Any


def is_split(settings: Mapping[str, Any]) -> bool:
    """Whether a classifier with these settings is the result of a split."""
    return "split.label" in settings


def split_section(settings: Mapping[str, Any]) -> str:
    """Section of the model card; empty for a classifier that was not split."""
    if not is_split(settings):
        return ""
    label, method = settings["split.label"], settings["split.method"]
    num_shots = settings.get("split.num_shots", 0)
    learned = f"from {num_shots} clips of them" if num_shots else "from texts, without a clip"
    parts = ", ".join(settings["split.modifiers"])
    return (
        "## Split of a label\n\n"
        f"`{label}` was split into {parts} by {method}, {learned}. The classifier before is "
        f"version {settings['split.parent'][:12]}. What was measured and promised of it is not "
        "carried over: no clip of the parts was held out. Clips under Provenance are those that "
        "it was fitted to and promised with."
    )


def kept_temperature(temperature: float | None) -> str:
    """What a split classifier's temperature is worth."""
    scaled = "" if temperature is None else f" ({temperature:.3g})"
    return (
        f"Its temperature{scaled} is the one of the classifier before the split. On the parts "
        "nothing was calibrated and nothing compared: measure on labelled clips before use."
    )
