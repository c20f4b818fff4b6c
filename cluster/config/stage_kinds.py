"""Kinds of stages that ``[[stages]]`` may name.

    [[stages]] -> EvaluateStage | RationalesStage | SftStage | ... -> Chain (chain.py)

A kind is declared once, in a module of kinds/; cluster/stages/stage_functions.py says how it runs.
A control arm is a stage off the main line (controls.py).
"""

from cluster.config.kinds.calibrate import CalibrateStage
from cluster.config.kinds.evaluate import EvaluateStage
from cluster.config.kinds.grpo import GrpoStage
from cluster.config.kinds.rationales import RationalesStage
from cluster.config.kinds.semantic_tokens import SemanticTokensStage
from cluster.config.kinds.sft import SftStage
from cluster.config.kinds.stage import Stage

STAGE_KINDS: dict[str, type[Stage]] = {
    "evaluate": EvaluateStage,
    "rationales": RationalesStage,
    "sft": SftStage,
    "grpo": GrpoStage,
    "calibrate": CalibrateStage,
    "semantic_tokens": SemanticTokensStage,
}
"""Kinds that ``[[stages]]`` may name."""
