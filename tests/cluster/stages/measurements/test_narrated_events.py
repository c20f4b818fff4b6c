from cluster.stages.measurements.narrated_events import NarratedEvents
from video.semantic_tokens.narrative import Run, Runs
from wire.types import Sample, Split


class Narratives:
    def narrative(self, address: str) -> Runs:
        return {"a": (Run(2, 3), Run(0, 1), Run(1, 2)), "b": ()}[address]


def sample(video: str) -> Sample:
    return Sample(id=video, video=video, label="x", split=Split.TEST)


def test_events_are_the_names_of_a_narratives_codes():
    events = NarratedEvents(Narratives(), ("left", "grow", "left", "up"))
    assert events.names == ("left", "grow", "up")
    assert events.told_of(sample("a")) == ["left", "left", "grow"]
    assert events.told_of(sample("b")) == []
