"""Vision-language baseline of a split: the classifier first, then texts of the sub-classes.

    the classifier says the coarse label? -> nearest sub-class text to the clip's embedding
    anything else                         -> as before

The classifier is not edited, so locality is 100 by definition. Deterministic: no seed.
"""

import numpy as np
from numpy.typing import NDArray

from calibrate.splitting.dictionary import Floats
from calibrate.splitting.metrics import Evaluation, SplitScore
from calibrate.splitting.retrieval import cosines
from wire.errors import DataError


def nearest_parts(clips: Floats, texts: Floats) -> NDArray[np.int64]:
    """Number of the nearest text [N] of each clip: embeddings [N, E] of clips (the mean of their
    frames' in the paper) and [k, E] of texts, of one vision-language model."""
    if clips.ndim != 2 or texts.ndim != 2 or clips.shape[1] != texts.shape[1]:
        raise DataError(
            f"embeddings of clips {list(clips.shape)} and of texts {list(texts.shape)}; expected "
            "[N, E] and [k, E] of one vision-language model"
        )
    nearest: NDArray[np.int64] = cosines(clips, texts).argmax(axis=1)
    return nearest


def score_baseline(evaluation: Evaluation, clips: Floats, texts: Floats) -> SplitScore:
    """Measures of the baseline; ``clips``: embeddings [N, E] of the split label's clips, in the
    evaluation's order; ``texts``: [k, E] of the parts."""
    before = evaluation.base_predictions()
    if len(clips) != len(before):
        raise DataError(f"{len(clips)} embeddings of {len(before)} clips; expected one for each")
    parts = evaluation.num_old + nearest_parts(clips, texts)
    return evaluation.score_predictions(np.where(before == evaluation.coarse, parts, before))
