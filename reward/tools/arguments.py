"""Explains a reward function's signature: whose it is and why, and what fills each argument."""

from collections.abc import Mapping
from dataclasses import dataclass

from reward.config import RewardTerm
from reward.plugins.signature import TELLING, Signature

_MEANING = {
    "data_source": "the manifest's column data_source, else empty text",
    "solution_str": "the completion's text",
    "ground_truth": "the label",
    "extra_info": "all further columns, and sample_id, split, is_truncated, policy_version",
    "data_sources": "the same for every completion: the manifest's column data_source, or empty",
    "solution_strs": "the texts of one group's completions",
    "ground_truths": "the label, for each of them",
    "extra_infos": "further columns, sample_id, split, is_truncated, policy_version of each",
    "prompts": "what the policy was asked, for each completion",
    "completions": "the completions of one group",
    "completion_ids": "their token ids",
    "trainer_state": "global_step alone",
    "log_extra": "a function: what is numeric is logged with the trace",
    "log_metric": "a function: what is numeric is logged",
}
_WHOSE = {"verl": "verl's", "verl_batch": "that of verl's batch manager", "trl": "TRL's"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One parameter of a function.

    Example:
        Argument(name="fps", filled_by="column fps, in all 400 samples")
    """

    name: str
    filled_by: str
    column: str | None = None
    """The manifest's column that fills it, where one does."""


def explain_style(term: RewardTerm, signature: Signature) -> str:
    """Explains the style of a function: ``verl's, because it takes solution_str; once per
    trace``."""
    if term.style is not None:
        reason = f'the term says style = "{term.style}"'
    else:
        telling = [name for name in TELLING[signature.style] if name in signature.names]
        reason = f"it takes {telling[0]}"
    whose, each = _WHOSE[signature.style], "group" if signature.is_batched else "trace"
    way = "async" if signature.is_async else "sync"
    return f"{whose}, because {reason}; {way}, once per {each}"


def arguments(
    term: RewardTerm, signature: Signature, num_with: Mapping[str, int] | None, num_samples: int
) -> list[Argument]:
    """Every parameter in the order of the alphabet, those with a given value first explained."""
    own = signature.own
    columns = num_with or {}
    listed = []
    for name in sorted(signature.names):
        if name in term.params:
            listed.append(Argument(name=name, filled_by=f"params: {term.params[name]!r}"))
        elif name in columns and not (signature.style != "trl" and name in own):
            filled = f"column {name}, in {_share(columns[name], num_samples)}"
            listed.append(Argument(name=name, filled_by=filled, column=name))
        elif name in own:
            listed.append(Argument(name=name, filled_by=_MEANING.get(name, "the label")))
        elif name not in signature.required:
            listed.append(Argument(name=name, filled_by="its default; no such column"))
        else:
            listed.append(Argument(name=name, filled_by=f"a column {name} of the manifest"))
    if signature.takes_any:
        rest = "every further column" if signature.style == "trl" else "nothing more"
        listed.append(Argument(name="**", filled_by=rest))
    return listed


def _share(count: int, of: int) -> str:
    return f"all {of} samples" if count == of else f"{count} of {of} samples"
