import json
import math

from calibrate.decision import Evidence
from calibrate.service.decisions.record import evidence_from_json, evidence_to_json
from tests.calibrate.service.deciding import make_evidence


def test_evidence_keeps_every_bit_also_of_what_is_not_finite():
    logprobs = {
        "policy": (-math.pi / 1e300, -math.inf),
        "vote": (math.nan, math.nan),
        "verdict": (-5e-324, -1.0000000000000002),
    }
    evidence = make_evidence(logprobs=logprobs, votes={"abnormal": 3, "normal": 1})
    text = evidence_to_json(evidence)
    json.loads(text, parse_constant=lambda name: 1 / 0)  # strict JSON
    read = evidence_from_json(text, evidence.trace)
    assert isinstance(read, Evidence)
    assert {name: [one.hex() for one in row] for name, row in read.logprobs.items()} == {
        name: [one.hex() for one in row] for name, row in logprobs.items()
    }
    assert (read.trace, read.parsed, read.votes, read.frames) == (
        evidence.trace,
        True,
        {"abnormal": 3, "normal": 1},
        (0, 8, 16),
    )


def test_logprobs_of_the_traces_tokens_are_not_kept():
    assert "-0.2" not in evidence_to_json(make_evidence(0.5))
