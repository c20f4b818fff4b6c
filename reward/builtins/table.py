"""The built-in rewards by name: the words that ``function`` of a reward term may be.

    f(completion: str, label: str, context: RewardContext, **params) -> float | None

``params`` of a term are read into the built-in's own model (PARAMS), so a typo is answered with the
nearest name. ``None``: the reward does not apply to this trace. One that waits for somebody (a
judge) is ``async``; the others run in the driver's own thread, so they are quick whatever a policy
writes. docs/rewards.md has their formulas and sources in one table.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from reward.builtins.agreement import AgreementParams, agreement
from reward.builtins.confidence import BrierParams, brier
from reward.builtins.deepintuit import accuracy_reward, format_reward
from reward.builtins.evidence import EvidenceIouParams, evidence_iou
from reward.builtins.graded import (
    CostMatrixParams,
    HierarchicalParams,
    OrdinalParams,
    cost_matrix,
    hierarchical,
    ordinal,
)
from reward.builtins.judge import judge
from reward.builtins.judge_params import JudgeParams
from reward.builtins.params import Params
from reward.builtins.penalties import OverlongParams, RepetitionParams, overlong, repetition
from reward.builtins.synonyms import SynonymsParams, synonyms
from reward.builtins.temporal import TemporalContrastParams, temporal_contrast
from reward.context import RewardContext
from wire.config import validate
from wire.errors import ConfigError

Builtin = Callable[..., float | Awaitable[float | None] | None]


def _accuracy(completion: str, label: str, context: RewardContext) -> float:
    return accuracy_reward(completion, label, context.labels)


def _format(completion: str, _label: str, _context: RewardContext) -> float:
    return format_reward(completion)


BUILTINS: Mapping[str, Builtin] = {
    "accuracy": _accuracy,
    "agreement": agreement,
    "brier": brier,
    "cost_matrix": cost_matrix,
    "evidence_iou": evidence_iou,
    "format": _format,
    "hierarchical": hierarchical,
    "judge": judge,
    "ordinal": ordinal,
    "overlong": overlong,
    "repetition": repetition,
    "synonyms": synonyms,
    "temporal_contrast": temporal_contrast,
}

PARAMS: Mapping[str, type[Params]] = {
    "accuracy": Params,
    "agreement": AgreementParams,
    "brier": BrierParams,
    "cost_matrix": CostMatrixParams,
    "evidence_iou": EvidenceIouParams,
    "format": Params,
    "hierarchical": HierarchicalParams,
    "judge": JudgeParams,
    "ordinal": OrdinalParams,
    "overlong": OverlongParams,
    "repetition": RepetitionParams,
    "synonyms": SynonymsParams,
    "temporal_contrast": TemporalContrastParams,
}


def read_params(function: str, values: Mapping[str, Any]) -> Params:
    """The parameters of a built-in. Raises ConfigError for a key or value that it cannot have."""
    source = f"params of {function!r}"
    if values and not PARAMS[function].model_fields:
        raise ConfigError(f"{source}: unknown key {next(iter(values))!r}; it takes none")
    return validate(PARAMS[function], values, source)
