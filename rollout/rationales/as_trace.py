"""Traces made of rationales: what a model wrote to explain a label, as a trace that ends with it.

rationale, the clip's label -> <think>reasoning</think><answer>label</answer> -> a cold start
"""

from rollout.rationales.answer import conclude
from wire.labels import LabelSet


def trace_of(rationale: str, label: str, labels: LabelSet, closing: str) -> str:
    """The trace of a clip with this label. Of the rationale all is kept but what names its own."""
    reasoning = conclude(rationale, labels, closing).reasoning
    for tag in ("<answer>", "</answer>"):  # of a block that was not whole
        reasoning = reasoning.replace(tag, "")
    return f"<think>{reasoning.strip()}</think><answer>{label}</answer>"
