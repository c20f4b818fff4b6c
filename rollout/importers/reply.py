"""Kinds of an assistant turn: a label word, a trace, a rationale, or something else.

Strict on purpose: what is not clearly one of them is not guessed at.
"""

import re

from rollout.importers.record import Reasoning

NOT_A_TRACE = "a trace is not one think block, then one answer block"
NO_CLOSING_LINE = "a rationale does not end with a line 'Classification: LABEL'"
TWO_CONCLUSIONS = "a rationale or trace concludes twice, differently"

# "Classification: Normal", with markdown around it; no word: a heading, the word on the next line.
_OPENS = r"[\s*#>_-]*(?:final\s+)?classification[\s*_]*:[\s*_]*"
_OPENING = re.compile(_OPENS, re.IGNORECASE)
_CLOSING = re.compile(_OPENS + r"(?P<word>\w[\w-]*(?: [\w-]+)?)?[\s*_.]*", re.IGNORECASE)
_TAGS = re.compile(r"</?(?:think|answer)>")
# What servers of usual models leave where a turn ends; the policy's own tokens are not known here.
_ENDS = (
    "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|end|>",
    "<|return|>", "<end_of_turn>", "<eos>", "</s>",
)  # fmt: skip
# Said by teachers who were shown the label, or texts or options that our prompts do not show.
_HINTED = re.compile(
    r"ground[- ]truth|(?:given|provided|correct|assigned) label|label (?:is|was) (?:given|provided)"
    r"|label of this video|sticker text|asr transcript"
    r"|\b(?:option|choice) \(?(?-i:[A-H])\b|\banswer is:? \(?(?-i:[A-H])\b(?! \w)",
    re.IGNORECASE,
)


def is_label_word(text: str) -> bool:
    """Whether a reply can be nothing but a label: one short line without tags."""
    reply = text.strip()
    return bool(reply) and "\n" not in reply and "<" not in reply and len(reply.split()) <= 3


def has_tags(text: str) -> bool:
    """Whether a reply wants to be a trace."""
    return _TAGS.search(text) is not None


def without_end(text: str) -> str:
    """A reply without outer white space and the tokens that servers leave where a turn ends."""
    stop = len(text)
    while stop and (length := _ending(text, stop)):
        stop -= length
    return text[:stop].strip()


def parse_trace(text: str) -> Reasoning | str:
    """A whole ``<think>...</think> <answer>...</answer>``; else a str, the reason why it is none.

    The end of a turn that a server left behind it is no part of it. Closing lines
    "Classification: X" inside the think block are cut off if they agree with the answer.
    """
    body = without_end(text)
    if _TAGS.findall(body) != ["<think>", "</think>", "<answer>", "</answer>"]:
        return NOT_A_TRACE
    thinking, _, rest = body.partition("</think>")
    between, _, answer = rest.partition("<answer>")
    if between.strip() or not thinking.startswith("<think>") or not body.endswith("</answer>"):
        return NOT_A_TRACE
    answer = answer.removesuffix("</answer>").strip()
    thought, conclusions = _split(thinking.removeprefix("<think>"))
    if not thought or not answer:
        return NOT_A_TRACE
    if conclusions - {answer.casefold()}:
        return TWO_CONCLUSIONS
    return Reasoning(text=thought, answer=answer)


def parse_rationale(text: str) -> Reasoning | str:
    """Reasoning that ends with "Classification: X"; else a str, the reason why it is none."""
    thought, conclusions = _split(text)
    if not thought or not conclusions or not _names_label(text.strip().splitlines()[-1]):
        return NO_CLOSING_LINE
    if len(conclusions) > 1:
        return TWO_CONCLUSIONS
    return Reasoning(text=thought, answer=conclusions.pop())


def speaks_of_hint(text: str) -> bool:
    """Whether a trace mentions a label it was given, or texts or options by letter, which our
    prompts do not show."""
    return _HINTED.search(text) is not None


def _ending(text: str, stop: int) -> int:
    """Length of the white space or end of turn before a place of a text."""
    if text[stop - 1].isspace():
        return 1
    return next((len(end) for end in _ENDS if text.endswith(end, 0, stop)), 0)


def _split(text: str) -> tuple[str, set[str]]:
    """Text without its closing lines, and all labels (folded) that any line concludes with."""
    lines = text.strip().splitlines()
    words = {word.casefold() for line in lines if (word := _concluded(line))}
    while lines and (not lines[-1].strip() or _CLOSING.fullmatch(lines[-1])):
        lines.pop()
    return "\n".join(lines).strip(), words


def _concluded(line: str) -> str | None:
    """The label that a line "Classification: ..." names; all of the line where that is no plain
    word or two."""
    if opening := _OPENING.match(line):
        closing = _CLOSING.fullmatch(line)
        return (closing["word"] or "").strip("_") if closing else line[opening.end() :]
    return None


def _names_label(line: str) -> bool:
    closing = _CLOSING.fullmatch(line)
    return closing is not None and closing["word"] is not None
