"""DeepIntuit's two rewards: accuracy (is the label right) and format (is the shape right).

    completion text, label -> 0.0 or 1.0

Malformed *model output* is a wrong answer and scores 0: the policy must learn from it. That is not
a failure of the judge (reward/plugins/runner.py), which scores nothing.
"""

import re

from wire.labels import LabelSet

# What may stand inside neither block. The first pattern is every tag of Qwen's family
# (<|im_start|>, <|endoftext|>, <|vision_start|>, <|video_pad|>, ...); the rest is DeepIntuit's own
# list (deepintuit_stage1/recipe/nova/reward_score.py) and the usual media markers.
_CONTROL = re.compile(
    r"<\|[^<>|\s]+\|>"
    r"|</?(?:think|answer|s|unk|vis_start|vis_end|img_pad|vid_pad|image|video)>"
    r"|\[/?INST\]"
)
# One of these may close the whole completion: "optional end tag".
_END_TAGS = ("<|im_end|>", "<|endoftext|>", "</s>")


def accuracy_reward(text: str, label: str, labels: LabelSet) -> float:
    """1 if the first answer block, without outer space and ignoring case, is ``label``; else 0.

    No answer block, or one that spells no label of the set, is a wrong answer: 0.
    """
    answer = labels.answer_in(text)
    return float(answer is not None and answer.casefold() == label.strip().casefold())


def format_reward(text: str) -> float:
    """1 if the whole completion is one think block, then one answer block; else 0.

    Space before, between and after the blocks is allowed, and one end tag. A control token or a
    nested think or answer tag in either block gives 0. Stricter than DeepIntuit's code in one case:
    there a second ``</think>`` between the blocks passes, because only the text up to the first is
    looked at; their stated rule forbids it, and so do we.
    """
    body = text.strip()
    for tag in _END_TAGS:
        if body.endswith(tag):
            body = body.removesuffix(tag).rstrip()
            break
    # Cut by hand: linear in the text, where a pattern backtracks over what a policy can write.
    if not (body.startswith("<think>") and body.endswith("</answer>")):
        return 0.0
    thinking, closed, rest = body.removeprefix("<think>").partition("</think>")
    rest = rest.lstrip()
    if not closed or not rest.startswith("<answer>"):
        return 0.0
    answer = rest.removeprefix("<answer>").removesuffix("</answer>")
    return float(not _CONTROL.search(thinking) and not _CONTROL.search(answer))
