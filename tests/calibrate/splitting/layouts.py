"""A small data set in the public layout of SSv2-Split. (No test file.)

Side A splits "push" and "drop"; "pull", "lift" and "hold" are kept fine. Side B is the reverse.
Two train clips and three val clips per fine label.
"""

import json
from collections.abc import Mapping
from pathlib import Path

SCHEME = {
    "push": ["push left", "push right", "push twice"],
    "drop": ["drop left", "drop twice"],
    "pull": ["pull left", "pull right", "pull twice"],
    "lift": ["lift left", "lift right"],
    "hold": ["hold"],
}
SPLIT = {"A": ["push", "drop"], "B": ["pull", "lift"]}
NUM_TRAIN, NUM_VAL = 2, 3


def fine_labels() -> list[str]:
    return [label for labels in SCHEME.values() for label in labels]


def clip_names(label: str, split: str) -> list[str]:
    count = NUM_TRAIN if split == "train" else NUM_VAL
    return [f"{split}-{label.replace(' ', '_')}-{number}.mp4" for number in range(count)]


def write_layout(directory: Path, scheme: Mapping[str, list[str]] = SCHEME) -> Path:
    """Both sides of the data set; returns its directory."""
    directory.mkdir(parents=True)
    about = {"group_scheme": scheme, **SPLIT}
    (directory / "group_scheme.json").write_text(json.dumps(about))
    for side in SPLIT:
        _write_side(directory / side, scheme, SPLIT[side])
    return directory


def _write_side(folder: Path, scheme: Mapping[str, list[str]], targets: list[str]) -> None:
    base_of = {
        label: coarse if coarse in targets else label
        for coarse, labels in scheme.items()
        for label in labels
    }
    labels = {label: i for i, label in enumerate(dict.fromkeys(base_of.values()))}
    folder.mkdir()
    (folder / "labels.json").write_text(json.dumps(labels))
    for split in ("train", "val"):
        rows = [
            (n, labels[base]) for fine, base in base_of.items() for n in clip_names(fine, split)
        ]
        write_rows(folder / f"{split}.csv", rows)
    for target in targets:
        (folder / target).mkdir()
        new = {label: len(labels) + i for i, label in enumerate(scheme[target])}
        for name, split in (("ft_set", "train"), ("equivalent_set", "val")):
            rows = [(n, index) for label, index in new.items() for n in clip_names(label, split)]
            write_rows(folder / target / f"{name}.csv", rows)
        others = {label: labels[base] for label, base in base_of.items() if base != target}
        rows = [(n, index) for label, index in others.items() for n in clip_names(label, "val")]
        write_rows(folder / target / "unrelated_set.csv", rows)


def write_rows(path: Path, rows: list[tuple[str, int]]) -> None:
    path.write_text("".join(f"{name},{index}\n" for name, index in rows))
