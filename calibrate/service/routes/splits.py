"""Route of splits: a label of a registered classifier becomes several, as a new version.

It edits the head alone, from texts: no clip is read and no engine started, so it takes seconds. The
new version is registered, and answers to its number; nothing promotes it.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from calibrate.classifier import Classifier, load_classifier
from calibrate.service.problems import Problem
from calibrate.service.routes.classifiers import ClassifierSummary, Ref
from calibrate.service.routes.context import MayFit, ServiceDep, problems
from calibrate.service.state.registered import RegisteredClassifier
from calibrate.splitting.classifier_edit import SplitRecord, split_classifier, splittable_head
from calibrate.splitting.encoder_config import TextEncoderConfig
from calibrate.splitting.label_texts import LabelTexts
from calibrate.splitting.splitter import Bias, Method, Splitting, texts_of_split
from calibrate.splitting.text_encoders import open_text_encoder

router = APIRouter(prefix="/v1/classifiers", tags=["classifiers"])

_MOST = 1000  # labels
_LONGEST = 200  # characters
_SHOWN = 20  # parts that are named where the new version comes from

Text = Annotated[str, Field(min_length=1, max_length=_LONGEST)]


class ToSplit(BaseModel):
    """Split to make."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    label: str = Field(min_length=1, max_length=500)
    """The label to split."""
    into: list[Text] = Field(min_length=2, max_length=_MOST)
    """Its parts: labels that the classifier does not have."""
    groups: dict[Text, list[Text]] = Field(default={}, max_length=_MOST)
    """Groups of the other labels; not given: labels whose names begin alike."""
    modifiers: dict[Text, Text] = Field(default={}, max_length=_MOST)
    """Label -> the phrase that tells it from the others of its group, of parts too."""
    accept_proposed: bool = False
    """Take phrases that are proposed from names where ``modifiers`` has none. Else they are
    answered (422 ``phrases-proposed``), to be looked at and sent back."""
    method: Method = "alignment"
    """How rows of the parts are made."""
    bias: Bias = "copied"
    """Of the parts: the label's, or the mean of labels that stayed fine."""
    encoder: Literal["policy", "minilm"] = "policy"
    """What makes vectors of texts."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Of ``alignment``."""


@router.post("/{ref}/split", status_code=201, responses=problems(404, 507))
async def split(
    ref: Ref, given: ToSplit, service: ServiceDep, caller: MayFit, response: Response
) -> ClassifierSummary:
    """Split a label of a classifier, and register the result as a new version. Only one that reads
    a head over the video alone can be split. Sets and thresholds of the result are not attainable:
    no clip of the parts was held out. Scope fit."""
    parent = await service.database.run(lambda: service.registry.get(ref))

    def make(out: Path) -> None:
        _split(load_classifier(parent.path, check_weights="if_newer"), given, out)

    parts = ", ".join(given.into) if len(given.into) <= _SHOWN else f"{len(given.into)} labels"
    source = f"split of version {parent.version}: {given.label!r} into {parts}"
    async with service.registry.turn:
        taken: RegisteredClassifier = await asyncio.to_thread(
            service.registry.register_made, make, source=source, by=caller.name
        )
    response.headers["Location"] = f"/v1/classifiers/{taken.version}"
    return ClassifierSummary(**taken.as_json(whole=True))


def _split(classifier: Classifier, given: ToSplit, out: Path) -> None:
    """Make the classifier in a folder. Raises Problem, DataError, ConfigError."""
    into = tuple(given.into)
    head = splittable_head(classifier, given.label, into)
    groups = {name: tuple(labels) for name, labels in given.groups.items()}
    texts = texts_of_split(
        LabelTexts(groups=groups, modifiers=given.modifiers), head.label_names, given.label, into
    )
    if texts.proposed and not given.accept_proposed:
        raise _proposed(texts.groups, texts.modifiers, len(texts.proposed))
    splitting = Splitting(head=head, label=given.label, texts=texts, into=into, bias=given.bias)
    encoder = open_text_encoder(TextEncoderConfig(encoder=given.encoder), classifier.policy_dir)
    edited, sources = splitting.zero_shot(given.method, encoder, seed=given.seed)
    record = SplitRecord(
        parent=classifier.version,
        label=given.label,
        modifiers={part.label: part.modifier for part in splitting.parts},
        method=given.method,
        bias=given.bias,
        encoder=encoder.name,
        seed=given.seed,
        sources=sources,
    )
    split_classifier(classifier, out, edited, record)


def _proposed(
    groups: Mapping[str, tuple[str, ...]], modifiers: Mapping[str, str], count: int
) -> Problem:
    return Problem(
        422,
        "phrases-proposed",
        f"{count} phrases are proposed from the labels' names; look at them, and send them back as "
        "groups and modifiers, mended where they are wrong, or with accept_proposed",
        extra={
            "groups": {name: list(labels) for name, labels in groups.items()},
            "modifiers": dict(modifiers),
        },
    )
