"""Checks the stages that write rationales: what their filters read must be asked for, and their
prompts must fit.

    stages + texts + longest text, largest clip -> findings
"""

from collections.abc import Callable, Sequence

from cluster.config.kinds.rationales import RationalesStage
from cluster.config.recipe import RunConfig
from rollout.message import Message
from wire.finding import Area, Finding, warning
from wire.types import Sample


def rationale_stages(config: RunConfig, stages: Sequence[str]) -> list[RationalesStage]:
    """Those of the named stages that write rationales or captions."""
    declared = (config.chain[name] for name in stages)
    return [stage for stage in declared if isinstance(stage, RationalesStage)]


def rationale_findings(config: RunConfig, stages: Sequence[str]) -> list[Finding]:
    """Findings on texts that do not ask for what a stage's filters read."""
    findings = []
    for stage in rationale_stages(config, stages):
        if stage.task != "rationale":
            continue
        text = (config.prompts.system + config.prompts.rationale).casefold()
        asks = stage.closing.casefold() in text or "<answer>" in text
        if stage.filters.parse and not asks:
            what = (
                f'prompts.rationale asks neither for a line "{stage.closing}: ..." nor for '
                f"<answer>, and stages.{stage.name}.filters.parse keeps only texts with one"
            )
            findings.append(
                warning(
                    Area.PROMPTS,
                    what,
                    f"ask for it, name the word in stages.{stage.name}.closing, or set "
                    "filters.parse = false",
                )
            )
        if not stage.hint and not _lists_labels(config):
            what = f"stage {stage.name} has no hint, and prompts.rationale does not list the labels"
            findings.append(
                warning(Area.PROMPTS, what, "put {labels} or {definitions} into the text")
            )
    return findings


def length_findings(
    config: RunConfig,
    stages: Sequence[str],
    samples: Sequence[Sample],
    num_text_tokens: Callable[[Sequence[Message]], int],
    most_video_tokens: int,
) -> list[Finding]:
    """Findings on prompts that may be longer than the rollout's limit: the longest text about the
    largest clip. ``num_text_tokens``: tokens of messages but for the clip's."""
    findings, limit = [], config.rollout.max_prompt_length
    for stage in rationale_stages(config, stages):
        asked = (config.prompt_set.ask(stage.ask, s) for s in samples if stage.clips.fits(s))
        longest = max(asked, key=_num_characters, default=None)
        text = 0 if longest is None else num_text_tokens(longest)
        if text + most_video_tokens > limit:
            findings.append(
                warning(
                    Area.PROMPTS,
                    f"prompts of stage {stage.name} have up to {text + most_video_tokens} tokens, "
                    f"{most_video_tokens} of them video: more than rollout.max_prompt_length = "
                    f"{limit}; they fail, and a run goes on without",
                    f"set it to {text + most_video_tokens} or more, or shorten the texts of "
                    "[prompts]",
                )
            )
    return findings


def _num_characters(messages: Sequence[Message]) -> int:
    return sum(len(message.text) for message in messages)


def _lists_labels(config: RunConfig) -> bool:
    templates = config.prompt_set.templates
    shown = {*templates["rationale"].fields, *templates["system"].fields}
    text = (config.prompts.system + config.prompts.rationale).casefold()
    named = all(name.casefold() in text for name in config.label_set.names)
    return named or not shown.isdisjoint({"labels", "definitions"})
