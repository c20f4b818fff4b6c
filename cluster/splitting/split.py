"""Order of the work of `deepintuit split`: what can fail fails before a clip is read.

classifier, label, parts, texts -> checked, texts completed -> shown to the person
    -> encoder -> shots, if any, and clips to measure on, read -> edited head
    -> OUT published -> measured
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from calibrate.classifier import Classifier, load_classifier
from calibrate.splitting.classifier_edit import (
    SplitRecord,
    refuse_inside,
    split_classifier,
    splittable_head,
)
from calibrate.splitting.edit import SplitHead
from calibrate.splitting.encoder_config import TextEncoderConfig
from calibrate.splitting.label_texts import LabelTexts
from calibrate.splitting.protocols import TextEncoder
from calibrate.splitting.splitter import Bias, Method, Shots, Splitting, texts_of_split
from calibrate.splitting.text_encoders import open_text_encoder
from cluster.classify.machine import Machine
from cluster.splitting.clip_features import ClipReader, LabelledClips, read_samples
from cluster.splitting.measure import Measured, measure, refuse_one_sided
from wire.config import validate
from wire.errors import DataError
from wire.types import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOrder:
    """Order to split a label of a classifier.

    Example:
        SplitOrder(classifier=Path("c"), out=Path("d"), label="left",
                   into=("left then up", "left then down"))
    """

    classifier: Path
    """A classifier's directory, or a run."""
    out: Path
    label: str
    into: tuple[str, ...]
    texts: LabelTexts = field(default_factory=LabelTexts)
    """Those of files; what they do not say is proposed."""
    method: Method = "alignment"
    bias: Bias = "copied"
    encoder: str = TextEncoderConfig().encoder
    seed: int = 0
    shots: Path | None = None
    """Manifest of clips of the parts to learn from."""
    measure: Path | None = None
    """Manifest of clips with fine labels to measure on."""
    machine: Machine = field(default_factory=Machine)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSplit:
    """An order that was looked at, with all its texts."""

    order: SplitOrder
    classifier: Classifier
    splitting: Splitting
    shots: tuple[Sample, ...]
    measured: tuple[Sample, ...]

    @property
    def texts(self) -> LabelTexts:
        """Groups and phrases, those that are proposed among them."""
        return self.splitting.texts


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedSplit:
    """A split that was published."""

    classifier: Classifier
    record: SplitRecord
    measured: Measured | None


def prepare_split(order: SplitOrder) -> PreparedSplit:
    """Check an order and complete its texts; no clip is read. Raises DataError, ConfigError."""
    out = order.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists already; give another OUT, or remove it first")
    classifier = load_classifier(order.classifier)
    refuse_inside(classifier, out)
    head = splittable_head(classifier, order.label, order.into)
    names = head.label_names
    texts = texts_of_split(order.texts, names, order.label, order.into)
    splitting = Splitting(
        head=head, label=order.label, texts=texts, into=order.into, bias=order.bias
    )
    shots = _shots(order)
    measured = _measured(order, names)
    both = {sample.video for sample in shots} & {sample.video for sample in measured}
    if both:
        raise DataError(
            f"{len(both)} clips are in both manifests, such as {sorted(both)[0]}: what was learned "
            "from measures nothing; take them out of one"
        )
    return PreparedSplit(
        order=order,
        classifier=classifier,
        splitting=splitting,
        shots=tuple(shots),
        measured=tuple(measured),
    )


def run_split(
    prepared: PreparedSplit, say: Callable[[str], None] = lambda _: None
) -> FinishedSplit:
    """Split, publish, and measure if there are clips for it. Raises DataError, ConfigError,
    DiskFull; then nothing is published."""
    order, classifier, splitting = prepared.order, prepared.classifier, prepared.splitting
    policy = classifier.policy_dir
    config = validate(TextEncoderConfig, {"encoder": order.encoder}, "--encoder")
    encoder = open_text_encoder(config, policy)
    shots, clips = _clips(prepared, say)
    edited, sources = splitting.zero_shot(order.method, encoder, seed=order.seed)
    learned: SplitHead | None = None
    if shots is not None:
        learned = splitting.low_shot(edited, shots, seed=order.seed)
    record = record_of_split(classifier, splitting, order, encoder, sources)
    if shots is not None:
        record = record.model_copy(
            update={"method": f"{order.method}+low-shot", "num_shots": len(shots.parts)}
        )
    published = split_classifier(classifier, order.out, learned or edited, record)
    measured = None
    if clips is not None:
        say("measuring")
        baseline = open_text_encoder(TextEncoderConfig(), policy)
        measured = measure(
            splitting, learned or edited, encoder, clips=clips, baseline=baseline, shots=shots
        )
    return FinishedSplit(classifier=published, record=record, measured=measured)


def record_of_split(
    classifier: Classifier,
    splitting: Splitting,
    order: SplitOrder,
    encoder: TextEncoder,
    sources: dict[str, str],
) -> SplitRecord:
    """What the new classifier's directory says of a split."""
    return SplitRecord(
        parent=classifier.version,
        label=order.label,
        modifiers={part.label: part.modifier for part in splitting.parts},
        method=order.method,
        bias=order.bias,
        encoder=encoder.name,
        seed=order.seed,
        sources=sources,
    )


def _shots(order: SplitOrder) -> list[Sample]:
    """Clips to learn from, of every part: the row of one without a clip would learn from the
    others' that nothing is it."""
    if order.shots is None:
        return []
    shots = read_samples(order.shots, order.into)
    seen = {sample.label for sample in shots}
    if lacking := [part for part in order.into if part not in seen]:
        raise DataError(
            f"{order.shots} has no clip of {lacking}; give one clip or more of each part, or leave "
            "--shots out"
        )
    return shots


def _measured(order: SplitOrder, names: Sequence[str]) -> list[Sample]:
    """Clips to measure on, of parts and of other labels."""
    if order.measure is None:
        return []
    kept = [name for name in names if name != order.label]
    measured = read_samples(order.measure, (*kept, *order.into))
    num_own = sum(sample.label in order.into for sample in measured)
    refuse_one_sided(num_own, len(measured) - num_own)
    return measured


def _clips(
    prepared: PreparedSplit, say: Callable[[str], None]
) -> tuple[Shots | None, LabelledClips | None]:
    """Features of the clips to learn from, and of those to measure on."""
    if not prepared.shots and not prepared.measured:
        return None, None
    say(f"reading {len(prepared.shots) + len(prepared.measured)} clips")
    reader = ClipReader(prepared.classifier, prepared.order.machine)
    shots = clips = None
    if prepared.shots:
        seen = reader.read(prepared.shots)
        shots = Shots(features=seen.states, parts=seen.labels)
    if prepared.measured:
        clips = reader.read(prepared.measured)
    return shots, clips
