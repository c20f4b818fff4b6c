"""Explanations beside a classification: the class is scored, the explanation is written, and the
two are compared.

samples -> traces (engines)             -> the explanation, with an answer of its own
        -> logprobs of all label codes  -> the class
        -> the clip's action narrative  -> events that the explanation names and the narrative tells
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from calibrate.predictions import Prediction
from video.semantic_tokens.explanation import EventNames, Support, support_figures
from wire.errors import ClipError
from wire.labels import reasoning_in
from wire.types import Sample, TraceGroup

NarratedEvents = Callable[[Sample], Sequence[str]]
"""Names of the events that the narrative of a sample tells, in their order."""


class Explanations:
    """Explanations of a policy, checked one after another against classes and narratives.

    Example:
        checked = Explanations(samples, names, narrated)
        predictions = list(checked.of(classes, groups))
        checked.figures()  # {"supported_frac": 0.97, ...}
    """

    def __init__(
        self, samples: Sequence[Sample], names: Sequence[str], narrated: NarratedEvents | None
    ) -> None:
        """``names``: of all events; ``narrated``: None where clips are shown as video, so that
        there is no narrative to compare with."""
        self._samples, self._narrated = samples, narrated
        self._names = EventNames(names)
        self._own: list[Support] = []
        self._elsewhere: list[Support] = []
        self._num_written = 0

    def of(
        self, classes: Iterable[Prediction], groups: Iterable[TraceGroup]
    ) -> Iterator[Prediction]:
        """The classes, each with its explanation as its trace, and with the counts of events;
        classes and groups are those of the samples, in their order."""
        for number, (one, group) in enumerate(zip(classes, groups, strict=True)):
            if group.sample.id != one.sample_id:
                raise ValueError(f"trace of {group.sample.id} beside the class of {one.sample_id}")
            if not group.traces:
                yield one
                continue
            self._num_written += 1
            text = group.traces[0].completion.text
            yield self._checked(replace(one, trace=text), text, number)

    def figures(self) -> dict[str, Any]:
        """Figures for done.json, after the last prediction."""
        written = {"num_written": self._num_written}
        if self._narrated is None:
            return written
        return written | asdict(support_figures(self._own, self._elsewhere))

    def _checked(self, prediction: Prediction, text: str, number: int) -> Prediction:
        if self._narrated is None:
            return prediction
        # the answer names a label, which may be an event's name, too
        reasoning = reasoning_in(text) or ""
        own = self._names.support(reasoning, self._narrated(self._samples[number]))
        self._own.append(own)
        for events in self._told_elsewhere(number, self._narrated):
            self._elsewhere.append(self._names.support(reasoning, events))
        return replace(prediction, num_named=own.num_named, num_supported=own.num_supported)

    def _told_elsewhere(self, number: int, narrated: NarratedEvents) -> Iterator[Sequence[str]]:
        """Events of the next clip that has a narrative; none where no other clip has one."""
        for step in range(1, len(self._samples)):
            try:
                yield narrated(self._samples[(number + step) % len(self._samples)])
            except ClipError:  # a clip that cannot be read has none
                continue
            return
