"""Features of a served trace, from the evidence about its clip: what the monitor of shift reads."""

from calibrate.calibration import Calibration
from calibrate.decision import Evidence, probabilities_of
from calibrate.shift.features import TraceFeatures
from wire.labels import LabelSet
from wire.token_arrays import Logprobs


def features_of(evidence: Evidence, labels: LabelSet, calibration: Calibration) -> TraceFeatures:
    """Features of the trace, with the classifier's confidence."""
    confidence = float(probabilities_of(evidence, calibration).max())
    logprobs = Logprobs(evidence.trace_logprobs)  # their mean is that of the reference, to the bit
    return TraceFeatures.of(evidence.trace, logprobs, labels, confidence)
