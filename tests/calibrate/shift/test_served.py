"""Features of served traces are those of archived ones, to the bit."""

import numpy as np

from calibrate.decision import Evidence, probabilities_of
from calibrate.shift.features import TraceFeatures
from calibrate.shift.served import features_of
from tests.calibrate.classifiers import make_calibration, make_description
from wire.token_arrays import Logprobs


def test_features_follow_from_the_evidence() -> None:
    logprobs = Logprobs(np.random.default_rng(0).normal(-1, 1, 999))
    evidence = Evidence(
        trace="<think>odd</think><answer>normal</answer>",
        parsed=True,
        logprobs={"policy": (-2.0, -0.1), "verdict": (-1.0, -0.5)},
        trace_logprobs=tuple(logprobs),
    )
    calibration, labels = make_calibration(), make_description().label_set
    confidence = float(probabilities_of(evidence, calibration).max())
    assert 0.5 < confidence < 1
    assert features_of(evidence, labels, calibration) == TraceFeatures.of(
        evidence.trace, logprobs, labels, confidence
    )
