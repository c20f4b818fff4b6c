"""Prompt of a sample as the model is shown it: its turns, version, target, and tokens if asked for.

recipe + manifest -> one sample -> messages (rollout/prompt.py) -> ShownPrompt
model's tokenizer and processor -> PromptTokens
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.config.kinds.rationales import RationalesStage
from cluster.config.recipe import RunConfig
from cluster.inputs.samples import read_samples
from rollout.message import Message
from rollout.prompt import PromptKind, RationalePrompt, VerdictPrompt
from rollout.prompt_columns import check_columns
from wire.errors import ClipError, ConfigError, DataError
from wire.nearest import nearest
from wire.types import Sample

KindName = Literal["trace", "verdict", "label", "rationale", "caption"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTokens:
    """Tokens of a prompt.

    Example:
        PromptTokens(text=62, video=98, limit=384, chat="<|im_start|>user\\n...", fault="")
    """

    text: int
    video: int | None
    """None if the clip cannot be read."""
    limit: int
    """``rollout.max_prompt_length``."""
    chat: str
    """The whole chat as the model's template writes it, the clip as its placeholder."""
    fault: str
    """Why the clip cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPrompt:
    """One prompt about a sample."""

    kind: KindName
    version: str
    """Version of the wording in the archive."""
    sample_id: str
    label: str
    split: str
    video: str
    turns: tuple[Message, ...]
    target: str | None
    """What training teaches the assistant to write; None: the manifest does not say."""
    reviewed: str
    """Whose trace a verdict's prompt shows; empty for other kinds."""
    tokens: PromptTokens | None


def choose_sample(config: RunConfig, name: str | None) -> Sample:
    """The sample with this id; without one, the first with a teacher's trace, or else the first.
    Raises DataError, also for columns that prompts cannot show."""
    samples = read_samples(config)
    check_columns(config.prompt_set, samples)
    if name is None:
        return next((sample for sample in samples if sample.trace), samples[0])
    by_id = {sample.id: sample for sample in samples}
    if name not in by_id:
        near = nearest(name, list(by_id)) if len(by_id) < 10_000 else "give an id of the manifest"
        near = near if len(near) < 200 else f"known: {samples[0].id} and {len(samples) - 1} more"
        raise DataError(f"{config.data.manifest} has no sample {name!r}; {near}")
    return by_id[name]


def shown_prompts(
    config: RunConfig, sample: Sample, kinds: Sequence[KindName], *, with_tokens: bool
) -> list[ShownPrompt]:
    """Prompts of these kinds about a sample. ``with_tokens``: loads the model's tokenizer and
    processor, and decodes the clip; raises ConfigError if the model is not here."""
    prompts = config.prompt_set
    shown = []
    for name in kinds:
        ask = _asks(config, name, sample)
        reviewed = "the teacher's trace" if sample.trace else "a made-up trace"
        shown.append(
            ShownPrompt(
                kind=name,
                version=prompts.version(ask),
                sample_id=sample.id,
                label=sample.label,
                split=sample.split.value,
                video=sample.video,
                turns=tuple(prompts.ask(ask, sample)),
                target=_target(name, sample),
                reviewed=reviewed if name == "verdict" else "",
                tokens=None,
            )
        )
    return _with_tokens(config, sample, shown) if with_tokens else shown


def kinds_asked(config: RunConfig) -> tuple[KindName, ...]:
    """Kinds of prompts that a recipe's stages and arms may ask with."""
    written = {stage.task for stage in config.chain if isinstance(stage, RationalesStage)}
    writing: tuple[KindName, ...] = ("rationale", "caption")
    return ("trace", "verdict", "label", *(name for name in writing if name in written))


def _asks(config: RunConfig, name: KindName, sample: Sample) -> PromptKind:
    """The kind of prompt of a name; of rationales as the first stage asks for them that does."""
    if name == "verdict":
        return VerdictPrompt(_trace(config, sample))
    if name != "rationale":
        return name
    stages = (stage for stage in config.chain if isinstance(stage, RationalesStage))
    return next((s.ask for s in stages if s.task == "rationale"), RationalePrompt(hint=True))


def _trace(config: RunConfig, sample: Sample) -> str:
    if sample.trace:
        return sample.trace
    return f"<think>What the policy wrote.</think><answer>{config.label_set.names[0]}</answer>"


def _target(name: KindName, sample: Sample) -> str | None:
    written = {"trace": sample.trace, "verdict": sample.label, "label": sample.label}
    return written.get(name)


def _with_tokens(
    config: RunConfig, sample: Sample, shown: Sequence[ShownPrompt]
) -> list[ShownPrompt]:
    from dataclasses import replace

    from rollout.render import Renderer
    from video.cache import ClipStore
    from video.processor import ClipProcessor

    if not config.model.is_dir():
        raise ConfigError(
            f"there is no model directory {config.model}, whose tokenizer counts; give 'model' as "
            "the path of one, or leave --tokens out"
        )
    renderer = Renderer.load(config.model, config.rollout.max_prompt_length)
    video, fault = None, ""
    with tempfile.TemporaryDirectory() as folder:
        store = ClipStore(folder, ClipProcessor(config.model), config.video)
        try:
            video = len(store.get(sample.video).placeholder_ids)
        except ClipError as error:
            fault = str(error)
    return [
        replace(
            one,
            tokens=PromptTokens(
                text=renderer.num_text_tokens(one.turns),
                video=video,
                limit=config.rollout.max_prompt_length,
                chat=renderer.chat(one.turns),
                fault=fault,
            ),
        )
        for one in shown
    ]
