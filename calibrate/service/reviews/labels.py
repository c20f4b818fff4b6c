"""Labels that people gave, as rows of a manifest that ``deepintuit`` reads (docs/data.md).

    reviews that ended with a label + their clips -> rows: video, label, split, weight, ...

A clip that was reviewed more than once has its newest label. Reviewed decisions alone would be a
biased sample: audited ones, drawn at random from the automatic ones, come with their weight, so
that a weighted mean over rows estimates one over all decisions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from calibrate.service.reviews.review import Review


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledClip:
    """Clip of a review, as a manifest names it."""

    video: str
    """Path on this machine."""
    classifier: int
    """Version that decided about it."""
    window: tuple[float, float] | None = None
    text: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


def label_rows(
    reviews: Sequence[Review],
    clip_of: Callable[[Review], LabelledClip | None],
    split: str,
) -> Iterator[dict[str, Any]]:
    """Rows of a manifest. ``reviews``: in the order in which they ended; ``clip_of``: None where
    the clip is not kept any longer, and the row is left out."""
    newest: dict[tuple[str, object], dict[str, Any]] = {}
    for review in reviews:
        clip = clip_of(review) if review.outcome is not None else None
        if clip is None:
            continue
        key = (review.video_hash, clip.window)
        newest.pop(key, None)
        newest[key] = _row(review, clip, split)
    yield from newest.values()


def _row(review: Review, clip: LabelledClip, split: str) -> dict[str, Any]:
    row: dict[str, Any] = dict(clip.columns)
    row |= {"id": review.decision_id, "video": clip.video, "label": review.outcome, "split": split}
    if clip.window is not None:
        row |= {"start_s": clip.window[0], "end_s": clip.window[1]}
    if clip.text is not None:
        row["text"] = clip.text
    return row | {
        "weight": review.weight,
        "kind": review.kind,
        "decision": review.decision_id,
        "classifier": clip.classifier,
        "classifier_label": review.label,
        "overturned": review.overturned,
        "reviewer": ", ".join(one.reviewer for one in review.answers),
        "labelled_at": review.completed_at,
    }
