"""Monitor of shift: are served traces drawn like the archived ones? A test that runs on.

    TraceReference + served traces, one by one -> ShiftMonitor -> alarm (feature, and by how much)

Each feature of a served trace gets a conformal p-value: its smoothed rank among the reference and
all served traces before it (Vovk, Gammerman & Shafer 2005, chapter 7). If archived and served
traces are exchangeable these are independent and uniform, whatever the reference's size, and the
capital of a bettor against them is a martingale (``betting.py``). A feature alarms when its capital
reaches (number of features) / level: the probability of *any* false alarm, ever, is at most
``level`` (Ville's inequality and Bonferroni's).

Length, logprob and confidence are ranked among traces that answer the same label, so that another
mix of labels alone moves none of them: it is the business of the feature ``answer``, and may be
reported without an alarm (a real shift of classes, which calls for another remedy than a shift of
the policy).
"""

import json
import math
import random
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from calibrate.shift.betting import Bettor
from calibrate.shift.effects import Effect, effect_of
from calibrate.shift.features import TraceColumns, TraceFeatures, TraceLog, TraceReference
from wire.errors import DataError
from wire.whole_file import replace_json

Feature = Literal["parsed", "answer", "num_tokens", "mean_logprob", "confidence"]
FEATURES: tuple[Feature, ...] = get_args(Feature)
FORMAT = 1
_WINDOW = 50  # served traces that an alarm is described by


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Alarm of one feature. It stays until it is acknowledged."""

    feature: Feature
    log_e_value: float
    """When it was raised: ln of the evidence against served traces being drawn like archived
    ones."""
    num_served: int
    """Traces served when it was raised."""
    effect: Effect
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureState:
    """State of one feature's test."""

    feature: Feature
    log_e_value: float
    log_limit: float
    """It alarms at this; infinite: it is reported only."""
    effect: Effect | None
    """Of the last served traces against the archived ones; None before any is served."""


class ShiftMonitor:
    """Sequential two-sample test of served traces against archived ones."""

    def __init__(
        self,
        reference: TraceReference,
        *,
        level: float = 0.01,
        alarm_on_labels: bool = True,
        seed: int = 0,
    ) -> None:
        """``level``: highest probability of a false alarm, over all time until an
        acknowledgement; ``alarm_on_labels``: whether another mix of answered labels alarms, or is
        reported only; ``seed``: of the numbers that break ties."""
        if not 0 < level < 1:
            raise DataError(f"level {level} of false alarms is not in (0, 1); 0.01 is usual")
        self.reference, self.level, self.alarm_on_labels = reference, level, alarm_on_labels
        self._seed = seed
        self.alarms: dict[Feature, Alarm] = {}
        self.num_acknowledged = 0
        self._restart()

    def _restart(self) -> None:
        self._served = TraceLog(self.reference.traces[:0])
        self._bettors = {feature: Bettor() for feature in FEATURES}
        self._sorted: dict[tuple[Feature, int], array[float]] = {}
        self._sort(self.reference.traces)

    @property
    def num_served(self) -> int:
        """Traces served since the start, or since the last acknowledgement."""
        return len(self._served)

    @property
    def alarm(self) -> str | None:
        """Words of all alarms that have not been acknowledged; None: there is none. For
        ``decide``."""
        return "; ".join(one.explanation for one in self.alarms.values()) or None

    def observe(self, trace: TraceFeatures) -> str | None:
        """Take a served trace; returns ``alarm``."""
        row = TraceColumns.of([trace], self.reference.label_names)
        for feature in FEATURES:
            ranked = _ranked(feature, row, 0)
            if ranked is not None:
                self._bettors[feature].bet(self._p_value(feature, *ranked))
        self._served.extend(row)
        for feature in FEATURES:
            log_e_value = self._bettors[feature].log_capital
            if feature not in self.alarms and log_e_value >= self._log_limit(feature):
                self.alarms[feature] = self._raise(feature, log_e_value)
        return self.alarm

    def observe_all(self, traces: Iterable[TraceFeatures]) -> str | None:
        """Take served traces, in the order in which they were served; returns ``alarm``."""
        for trace in traces:
            self.observe(trace)
        return self.alarm

    def acknowledge(self) -> None:
        """End all alarms and begin a new test, with its own ``level`` of false alarms: served
        traces are forgotten, and a shift that lasts alarms again."""
        self.alarms = {}
        self.num_acknowledged += 1
        self._restart()

    def features(self) -> tuple[FeatureState, ...]:
        """State of each feature, for a report."""
        return tuple(
            FeatureState(
                feature=feature,
                log_e_value=self._bettors[feature].log_capital,
                log_limit=self._log_limit(feature),
                effect=self._effect(feature) if self.num_served else None,
            )
            for feature in FEATURES
        )

    def _log_limit(self, feature: Feature) -> float:
        if feature == "answer" and not self.alarm_on_labels:
            return math.inf
        return math.log((len(FEATURES) - (not self.alarm_on_labels)) / self.level)

    def _p_value(self, feature: Feature, category: int, value: float) -> float:
        """Smoothed rank among all before, uniform under exchangeability; the value joins them."""
        values = self._sorted.setdefault((feature, category), array("f"))
        equal = bisect_right(values, value) - (below := bisect_left(values, value))
        above = len(values) - below - equal
        draw = random.Random(f"{self._seed}/{self.num_acknowledged}/{feature}/{self.num_served}")
        insort(values, value)
        return (above + draw.random() * (equal + 1)) / len(values)

    def _sort(self, traces: TraceColumns) -> None:
        """Rank later values among these traces, too."""
        parts: dict[tuple[Feature, int], list[float]] = {
            key: list(values) for key, values in self._sorted.items()
        }
        for feature in FEATURES:
            for place in range(len(traces)):
                if (ranked := _ranked(feature, traces, place)) is not None:
                    parts.setdefault((feature, ranked[0]), []).append(ranked[1])
        self._sorted = {key: array("f", sorted(values)) for key, values in parts.items()}

    def _effect(self, feature: Feature) -> Effect:
        names = self.reference.label_names
        return effect_of(feature, self.reference.traces, self._served.columns(_WINDOW), names)

    def _raise(self, feature: Feature, log_e_value: float) -> Alarm:
        effect = self._effect(feature)
        return Alarm(
            feature=feature,
            log_e_value=log_e_value,
            num_served=self.num_served,
            effect=effect,
            explanation=f"{effect.explanation} (after {self.num_served} served traces, false alarm "
            f"level {100 * self.level:g}%)",
        )

    def save(self, directory: Path) -> None:
        """Write the state, monitor.safetensors then monitor.json, each by rename; the reference has
        its own files."""
        directory.mkdir(parents=True, exist_ok=True)
        self._served.columns().write(directory / "monitor.safetensors")
        state = {
            "format": FORMAT,
            "level": self.level,
            "alarm_on_labels": self.alarm_on_labels,
            "seed": self._seed,
            "num_acknowledged": self.num_acknowledged,
            "num_served": self.num_served,
            "alarms": [asdict(alarm) for alarm in self.alarms.values()],
            "bettors": {name: bettor.state() for name, bettor in self._bettors.items()},
        }
        replace_json(directory / "monitor.json", state)

    @classmethod
    def load(cls, directory: Path, reference: TraceReference) -> "ShiftMonitor":
        """A monitor that goes on where ``save`` left it. Raises DataError if there is no state that
        can be read."""
        path = directory / "monitor.json"
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            if state["format"] != FORMAT:
                raise DataError(f"{path}: format {state['format']}, expected {FORMAT}")
            monitor = cls(
                reference,
                level=state["level"],
                alarm_on_labels=state["alarm_on_labels"],
                seed=state["seed"],
            )
            monitor.num_acknowledged = state["num_acknowledged"]
            monitor.alarms = {
                one["feature"]: Alarm(**one | {"effect": Effect(**one["effect"])})
                for one in state["alarms"]
            }
            monitor._bettors = {name: Bettor.restored(state["bettors"][name]) for name in FEATURES}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} is no state of a monitor: {error!r}; delete {directory} to begin anew"
            ) from error
        served = TraceColumns.read(directory / "monitor.safetensors")
        if len(served) < state["num_served"]:
            raise DataError(
                f"{path}: {len(served)} served traces, expected {state['num_served']}; "
                f"delete {directory} to begin anew"
            )
        served = served[: state["num_served"]]  # a kill between the two files leaves more
        monitor._sort(served)
        monitor._served = TraceLog(served)
        return monitor


def _ranked(feature: Feature, traces: TraceColumns, place: int) -> tuple[int, float] | None:
    """The category among whose traces a value is ranked, and the value; None: it is not known."""
    answer = int(traces.answer[place])
    if feature == "parsed":
        return 0, float(traces.parsed[place])
    if feature == "answer":
        return None if answer < 0 else (0, float(answer))
    value = float(getattr(traces, feature)[place])
    return None if math.isnan(value) else (answer, value)
