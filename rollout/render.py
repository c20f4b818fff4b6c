"""Rendering: chat messages + processed clip -> prompt token ids; the only place of tokenization.

    messages -> chat template -> ids(before) + the clip's placeholder ids + ids(after) -> Prompt

The placeholder ids come from the one processor call of the clip (video/processor.py), so every
prompt about a clip holds exactly the tokens that call made. The learner never renders text: it gets
these ids.
"""

import bisect
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rollout.control_tokens import ControlTokens, pieces
from rollout.message import Message
from video.processor import PLACEHOLDER, ProcessedClip
from wire.errors import ConfigError
from wire.labels import LabelSet
from wire.types import Prompt

_TRACE = "<think> a </think> <answer> b </answer>"


class PromptTooLong(ValueError):
    """A prompt that does not fit; the message names its length and the limit."""


class Renderer:
    """Turns messages into token ids with the model's own tokenizer and chat template."""

    def __init__(self, tokenizer: Any, max_prompt_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_prompt_length = max_prompt_length
        self.control_tokens = ControlTokens(tokenizer)
        """Tokens that no text of a prompt or a target may become."""
        self._clip_ends = self._ids(PLACEHOLDER)

    @classmethod
    def load(cls, model_dir: Path, max_prompt_length: int) -> "Renderer":
        """A renderer with the tokenizer of a model directory. Raises ConfigError if there is
        none."""
        from transformers import AutoTokenizer

        try:
            return cls(AutoTokenizer.from_pretrained(model_dir), max_prompt_length)
        except (OSError, ValueError, KeyError, TypeError) as error:  # whatever the files lack
            raise ConfigError(
                f"cannot load the tokenizer in {model_dir}: {error!r}; "
                "the folder must hold the tokenizer files that came with the model"
            ) from error

    @property
    def end_of_turn(self) -> int:
        """The token that ends an assistant turn."""
        return int(self._tokenizer.eos_token_id)

    def prompt(
        self,
        messages: Sequence[Message],
        clip: ProcessedClip,
        *,
        version: str = "",
        bounded: bool = True,
    ) -> Prompt:
        """Token ids of a prompt that ends where the assistant begins to speak. ``version``: of its
        wording.

        Raises PromptTooLong; a prompt is never cut, because the cut would fall into the video.
        """
        before, after = self._text(messages).split(PLACEHOLDER)
        ids = (*self._ids(before), *clip.placeholder_ids, *self._ids(after))
        if bounded and len(ids) > self._max_prompt_length:
            raise PromptTooLong(
                f"the prompt has {len(ids)} tokens, {len(clip.placeholder_ids)} of them video; "
                f"rollout.max_prompt_length is {self._max_prompt_length}: raise it, "
                "or lower video.max_frames or video.max_pixels"
            )
        return Prompt(
            token_ids=ids,
            clip_key=clip.clip_key,
            fingerprint=clip.fingerprint,
            version=version,
        )

    def num_text_tokens(self, messages: Sequence[Message]) -> int:
        """Number of tokens of a prompt around its clip; the clip's are its ``placeholder_ids``."""
        before, after = self._text(messages).split(PLACEHOLDER)
        return len(self._ids(before)) + len(self._ids(after))

    def text_of(self, messages: Sequence[Message]) -> str:
        """Text of a prompt without its clip, as the tokens of ``around_clip`` give it."""
        before, after = self._text(messages).split(PLACEHOLDER)
        return self.text((*self._ids(before), *self._ids(after)))

    def around_clip(self, prompt: Prompt) -> tuple[int, ...]:
        """Tokens of a prompt but for its clip, which the first and the last token of
        ``PLACEHOLDER`` enclose."""
        ids = prompt.token_ids
        start, *_, end = self._clip_ends
        if start not in ids or end not in ids:
            return ids
        last = len(ids) - ids[::-1].index(end)
        return (*ids[: ids.index(start)], *ids[last:])

    def target(self, text: str) -> tuple[int, ...]:
        """Token ids of an assistant turn, its end included. Tags of a trace may be tokens; no other
        token steers."""
        return (*self._ids(self.control_tokens.cut(text)), self.end_of_turn)

    def text(self, token_ids: Sequence[int]) -> str:
        """Text of token ids with special tokens kept (tags may be special), a final end of turn
        removed."""
        ids = list(token_ids)
        if ids and ids[-1] == self.end_of_turn:
            ids.pop()
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def label_codes(self, labels: LabelSet) -> dict[str, tuple[int, ...]]:
        """Tokens that stand for each label in the verdict, one where the vocabulary has it.

        Raises ConfigError where two labels could not be told apart: a code that begins another, or
        one that does not decode back to its label.
        """
        codes = {name: self._ids(name) for name in labels.names}
        for name, code in codes.items():
            if labels.find(str(self._tokenizer.decode(list(code)))) != name:
                raise ConfigError(
                    f"label {name!r} does not survive the tokenizer (ids {code}); rename the label "
                    "or add it to the tokenizer's vocabulary"
                )
            for other, longer in codes.items():
                if other != name and longer[: len(code)] == code:
                    raise ConfigError(
                        f"the tokens of label {name!r} begin those of {other!r}, so a score cannot "
                        "tell them apart; rename one of them"
                    )
        return codes

    def answer_logprob(self, token_ids: Sequence[int], logprobs: Sequence[float]) -> float | None:
        """Sum of the logprobs of the tokens in the first answer block; None without such a block.

        A tag may be one token or several; a token that holds the end of a tag and the beginning of
        the answer counts.
        """
        span = self._answer(token_ids)
        if span is None:
            return None
        ends, _, start, answer = span
        first = bisect.bisect_right(ends, start)
        last = bisect.bisect_left(ends, start + len(answer)) if answer else first - 1
        return float(sum(logprobs[first : last + 1]))

    def answer_codes(
        self, token_ids: Sequence[int], labels: LabelSet
    ) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]] | None:
        """Token ids before the first answer, and the continuation for each label; None without an
        answer block.

        Before: whole tokens up to ``<answer>``. If a token holds the end of the tag and more, it
        begins the codes; so does the space that was written in front of the label.
        """
        span = self._answer(token_ids)
        if span is None:
            return None
        ends, text, start, answer = span
        count = bisect.bisect_right(ends, start)
        rest_of_tag = text[ends[count - 1] if count else 0 : start]
        lead = rest_of_tag + answer[: len(answer) - len(answer.lstrip())]
        return tuple(token_ids[:count]), {name: self._ids(lead + name) for name in labels.names}

    def _answer(self, token_ids: Sequence[int]) -> tuple[list[int], str, int, str] | None:
        """Ends of each token's text, the whole text, start of the first answer, the answer; None
        without an answer block."""
        # one by one: a character of several tokens is lost, but tags are ASCII
        pieces = self._tokenizer.batch_decode([[token] for token in token_ids])
        text = "".join(pieces)
        before, opened, rest = text.partition("<answer>")
        answer, closed, _ = rest.partition("</answer>")
        if not closed:
            return None
        ends = list(itertools.accumulate(len(piece) for piece in pieces))
        return ends, text, len(before) + len(opened), answer

    def check_round_trip(self) -> None:
        """Raise ConfigError unless the tags of a trace survive encoding and decoding."""
        back = self.text(self.target(_TRACE))
        tags = [part for part in back.split() if part.startswith("<")]
        if tags != ["<think>", "</think>", "<answer>", "</answer>"]:
            raise ConfigError(
                f"the tokenizer turns {_TRACE!r} into {back!r}: traces could not be judged; "
                "use a tokenizer that keeps <think> and <answer> tags"
            )

    def check_template(self) -> None:
        """Raise ConfigError unless the chat template can be used and shows a video once."""
        from jinja2 import TemplateError

        try:
            shown = self._text([Message("user", ("a",), has_video=True)])
        except (TemplateError, ValueError) as error:
            raise ConfigError(
                f"the model's chat template cannot be used: {_first_line(error)}; "
                "the folder must hold the chat_template file that came with the model"
            ) from error
        if shown.count(PLACEHOLDER) != 1:
            raise ConfigError(
                f"the model's chat template shows a video as {shown!r}, without {PLACEHOLDER}; "
                "use the template that came with the model"
            )

    def blocked_tokens(self) -> tuple[int, ...]:
        """Vision tokens, which a policy must not write: a trace with one could not be trained
        on."""
        kinds = ("video_pad", "image_pad", "vision_pad", "vision_start", "vision_end")
        names = [f"<|{kind}|>" for kind in kinds]
        vocabulary = self._tokenizer.get_vocab()
        return tuple(vocabulary[name] for name in names if name in vocabulary)

    def _text(self, messages: Sequence[Message]) -> str:
        turns = []
        for message in messages:
            text = {"type": "text", "text": self.control_tokens.cut(*message.parts)}
            content = [{"type": "video"}, text] if message.has_video else [text]
            turns.append({"role": message.role, "content": content})
        return str(
            self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        )

    def _ids(self, text: str) -> tuple[int, ...]:
        ids: list[int] = []
        for piece in pieces(text):
            ids += self._tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]
        return tuple(ids)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0]
