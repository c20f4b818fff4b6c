"""Checks for control tokens in people's text: traces, labels, side texts, columns, prompts.

    texts + the tokenizer's control tokens -> findings with the first place of each

None of them steers the model (rollout/control_tokens.py): they are trained and shown as plain text.
A text that spells one is a mistake all the same, most often of the server that wrote it.
"""

from collections.abc import Iterable, Sequence

from cluster.config.recipe import RunConfig
from rollout.control_tokens import ControlTokens
from rollout.message import TAGS, Foreign
from rollout.prompt import PromptKind, RationalePrompt, VerdictPrompt
from wire.finding import Area, Finding, warning
from wire.types import Sample

_AROUND = 16
_REMEDY = "take them out; now they are plain letters to the model, and left out where a trace ends"


def control_token_findings(
    config: RunConfig,
    samples: Sequence[Sample],
    with_trace: Sequence[Sample],
    controls: ControlTokens,
) -> list[Finding]:
    """Findings on texts that spell control tokens, and on traces that hold a tag more than once."""
    labels = [(one.name, f"{one.name}: {one.definition}") for one in config.label_set.labels]
    prompts = config.prompt_set
    texts = [(f"prompts.{name}", str(getattr(prompts.texts, name))) for name in prompts.user_texts]
    traces = [(sample.id, sample.trace or "") for sample in with_trace]
    shown = [(sample.id, _sample_text(config, sample)) for sample in samples]
    spelled = [
        _spelled(Area.LABELS, "labels", labels, controls),
        _spelled(Area.TRACES, "traces", traces, controls),
        _spelled(Area.PROMPTS, "rows' side texts and columns that prompts show", shown, controls),
        _spelled(Area.PROMPTS, "texts of [prompts]", texts, controls),
        _tags_twice(traces),
    ]
    return [finding for finding in spelled if finding is not None]


def _sample_text(config: RunConfig, sample: Sample) -> str:
    """Texts of the sample that any prompt shows."""
    prompts = config.prompt_set
    if not (prompts.columns or prompts.shows_side_text):
        return ""
    kinds: tuple[PromptKind, ...] = (
        *("trace", "label", VerdictPrompt("")),
        *(RationalePrompt(hint=True), "caption"),
    )
    asked = [message for kind in kinds for message in prompts.ask(kind, sample)]
    parts = [part for message in asked for part in message.parts]
    own = (part for part in parts if isinstance(part, Foreign) and part.of == "sample")
    return "\n".join(dict.fromkeys(own))


def _spelled(
    area: Area, kind: str, texts: Sequence[tuple[str, str]], controls: ControlTokens
) -> Finding | None:
    where = [
        f"{name}: {_excerpt(text, tokens[0])!r}"
        for name, text in texts
        if (tokens := controls.named_in(text))
    ]
    if not where:
        return None
    what = f"{len(where)} of {len(texts)} {kind} spell control tokens of the model"
    return warning(area, what, _REMEDY, where)


def _excerpt(text: str, token: str) -> str:
    at = max(0, text.find(token))
    start, end = max(0, at - _AROUND), at + len(token) + _AROUND
    return "..." * (start > 0) + text[start:end] + "..." * (end < len(text))


def _tags_twice(traces: Iterable[tuple[str, str]]) -> Finding | None:
    traces = list(traces)
    where = [name for name, trace in traces if any(trace.count(tag) > 1 for tag in TAGS)]
    if not where:
        return None
    what = (
        f"{len(where)} of {len(traces)} traces hold a tag more than once: the first answer block "
        "counts, and the format reward is 0"
    )
    return warning(Area.TRACES, what, "quote no tags inside of a trace's blocks", where)
