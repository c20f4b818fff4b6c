"""Controls of a decision: the same question about a view of the clip that lacks something.

    Evidence about shuffled, reversed or grey frames -> ControlShown, beside the decision

What a model writes is its rationale, not the cause of its answer: where shuffled or grey frames
give the same answer, the answer was not read from what was taken away.
"""

import numpy as np

from calibrate.calibration import Calibration
from calibrate.decision import Decision, Evidence, decide
from calibrate.service.decisions.record import ControlShown
from wire.types import Failure

_MEANINGS = {
    "blank": "if nothing changes, the decision was not read from the pixels: the prompt, the "
    "clip's length or the label's frequency decided it",
    "shuffled": "if nothing changes, the order of the frames does not matter: single frames "
    "decided it, or nothing in the video did",
    "reversed": "if nothing changes, the direction of time does not matter to the decision",
}


def control_shown(
    answer: Evidence | Failure | None,
    decision: Decision,
    calibration: Calibration,
    view: str | None,
) -> ControlShown | None:
    """The decision about a view, beside that about the clip; None where none was asked for."""
    if answer is None:
        return None
    shown = view or "control"
    meaning = _MEANINGS.get(shown, "")
    if isinstance(answer, Failure):
        return ControlShown(
            view=shown,
            label=None,
            label_changed=False,
            total_variation=None,
            failure=answer.reason,
            meaning=meaning,
        )
    rows = {name: np.array([values], np.float64) for name, values in answer.logprobs.items()}
    other = decide(calibration.calibrator.probabilities(rows)[0], calibration, parsed=answer.parsed)
    gaps = [abs(other.probabilities[name] - one) for name, one in decision.probabilities.items()]
    return ControlShown(
        view=shown,
        label=other.label,
        label_changed=other.label != decision.label,
        total_variation=sum(gaps) / 2,
        probabilities=other.probabilities,
        meaning=meaning,
    )
