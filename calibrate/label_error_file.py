"""Label errors of a fit: ranked from the head's folds over the clips learned from, and written for
a person to look at.

head, its features -> out-of-fold probabilities -> rank_label_errors -> label_errors.jsonl
"""

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibrate import head as linear_head
from calibrate.head import Head
from calibrate.label_errors import LabelErrors, rank_label_errors
from wire.errors import DataError
from wire.strict_json import to_json
from wire.types import Sample
from wire.whole_file import whole_file

LABEL_ERRORS_FILE = "label_errors.jsonl"
log = logging.getLogger(__name__)


def label_errors_of_fit(
    head: Head, features: NDArray[np.floating], samples: Sequence[Sample]
) -> LabelErrors | None:
    """Ranked label errors of the clips that a head learned from, by heads that did not see them.

    ``features`` [N, H] and ``samples`` [N] of each trace. None where cleanlab is not installed (the
    extra ``deepintuit[cleanlab]``), or where a label has too few clips for folds, with a warning.
    """
    if importlib.util.find_spec("cleanlab") is None:
        log.info("label errors are not ranked: pip install 'deepintuit[cleanlab]'")
        return None
    labels, ids = [one.label for one in samples], [one.id for one in samples]
    try:
        folds = linear_head.out_of_fold(features, labels, head.label_names, ids, head.c)
        return rank_label_errors(folds, labels, head.label_names, ids)
    except DataError as error:
        log.warning("label errors are not ranked: %s", error)
        return None


def write_label_errors(path: Path, errors: LabelErrors) -> None:
    """A line per doubtful clip, the most doubtful first: id, given and suggested label,
    self-confidence. The file appears whole."""
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        for rank, one in enumerate(errors.ranked, start=1):
            file.write(to_json({"rank": rank, **asdict(one)}) + "\n")
