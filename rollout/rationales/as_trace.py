"""Traces made of rationales: what a model wrote to explain a label, as a trace that ends with it.

rationale, the clip's label -> <think>rationale</think><answer>label</answer> -> a cold start
"""

import re

from wire.labels import reasoning_in

_TAG = re.compile(r"</?(?:think|answer)>")


def trace_of(rationale: str, label: str, closing: str) -> str:
    """The trace of a clip with this label. Of the rationale all is kept but the line that names its
    own label (``closing`` and a colon), an answer block, and tags."""
    body = reasoning_in(rationale)
    if body is None:
        body = rationale.partition("<answer>")[0]
    lines = _TAG.sub("", body).strip().splitlines()
    names_label = re.compile(rf"[\s*#>_-]*{re.escape(closing)}[\s*_]*:.*", re.IGNORECASE)
    while lines and (not lines[-1].strip() or names_label.fullmatch(lines[-1])):
        lines.pop()
    reasoning = "\n".join(lines).strip()
    return f"<think>{reasoning}</think><answer>{label}</answer>"
