"""Rendering: chat messages + processed clip -> prompt token ids; the only place of tokenization.

    messages -> chat template -> ids(before) + the clip's placeholder ids + ids(after) -> Prompt

The placeholder ids come from the one processor call of the clip (video/processor.py), so every
prompt about a clip holds exactly the tokens that call made. The learner never renders text: it gets
these ids.
"""

import bisect
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rollout.control_tokens import ControlTokens, pieces
from rollout.label_codes import Code, tell_apart
from rollout.message import Foreign, Message
from rollout.prompt_size import PromptSize
from video.processor import PLACEHOLDER, ProcessedClip
from wire.errors import ConfigError
from wire.labels import LabelSet
from wire.token_arrays import TokenIds
from wire.types import Prompt

_ANSWER, _END_OF_ANSWER = "<answer>", "</answer>"
_THINK, _END_OF_THINK = "<think>", "</think>"
_MAX_LEADS = 64  # what stands between the tag and the label: nothing, or a space, in most traces
_SYSTEM = "You watch a clip."
_TRACE = "<think> a </think> <answer> b </answer>"


class PromptTooLong(ValueError):
    """A prompt that does not fit; the message names its length and the limit."""


class _Answer(NamedTuple):
    """Answer block in token ids."""

    ends: list[int]
    """Where the text of each token ends."""
    text: str
    start: int
    """Where the answer begins, behind its tag."""
    answer: str

    @property
    def end(self) -> int:
        """Where the answer ends, before its tag."""
        return self.start + len(self.answer)

    @property
    def num_before(self) -> int:
        """Number of tokens that end before the answer, or with it its tag."""
        return bisect.bisect_right(self.ends, self.start)

    @property
    def lead(self) -> str:
        """Text between these tokens and the label: the rest of the tag, and space."""
        begun = self.text[self.ends[self.num_before - 1] if self.num_before else 0 : self.start]
        return begun + self.answer[: len(self.answer) - len(self.answer.lstrip())]


class Renderer:
    """Turns messages into token ids with the model's own tokenizer and chat template."""

    def __init__(self, tokenizer: Any, max_prompt_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_prompt_length = max_prompt_length
        self.control_tokens = ControlTokens(tokenizer)
        """Tokens that no text of a prompt or a target may become."""
        self._clip_ends = self._ids(PLACEHOLDER)
        self._codes_after = functools.lru_cache(_MAX_LEADS)(self._codes_of)
        self._turns_between = functools.lru_cache(_MAX_LEADS)(self._turns_of)

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
            size = self.size(messages, len(clip.placeholder_ids))
            raise PromptTooLong(
                f"the prompt has {size}; rollout.max_prompt_length is {self._max_prompt_length}: "
                f"raise it, or {size.remedy}"
            )
        return Prompt(
            token_ids=TokenIds(ids),
            clip_key=clip.clip_key,
            fingerprint=clip.fingerprint,
            version=version,
            video_hash=clip.video_hash,
            window_start_s=None if clip.window is None else clip.window.start_s,
            window_end_s=None if clip.window is None else clip.window.end_s,
            frame_indices=clip.frame_indices,
            semantic_tokenizer=clip.semantic_tokenizer,
        )

    def size(self, messages: Sequence[Message], video: int) -> PromptSize:
        """Size of a prompt about a clip of so many placeholders; those of its parts are counted
        alone."""
        foreign = [part for m in messages for part in m.parts if isinstance(part, Foreign)]
        tokens = {"labels": 0, "sample": 0}
        for part in foreign:
            tokens[part.of] += len(self.plain_ids(part))
        return PromptSize(
            total=self.num_text_tokens(messages) + video,
            video=video,
            labels=tokens["labels"],
            data=tokens["sample"],
        )

    def num_text_tokens(self, messages: Sequence[Message]) -> int:
        """Number of tokens of a prompt around its clip; the clip's are its ``placeholder_ids``."""
        before, after = self._text(messages).split(PLACEHOLDER)
        return len(self._ids(before)) + len(self._ids(after))

    def text_of(self, messages: Sequence[Message]) -> str:
        """Text of a prompt without its clip, as the tokens of ``around_clip`` give it."""
        before, after = self._text(messages).split(PLACEHOLDER)
        return self.text((*self._ids(before), *self._ids(after)))

    def chat(self, messages: Sequence[Message]) -> str:
        """The whole chat as the model's template writes it, the clip as its placeholder."""
        return "".join(pieces(self._text(messages)))

    def around_clip(self, prompt: Prompt) -> tuple[int, ...]:
        """Tokens of a prompt but for its clip, which the first and the last token of
        ``PLACEHOLDER`` enclose."""
        ids = prompt.token_ids
        start, *_, end = self._clip_ends
        if start not in ids or end not in ids:
            return tuple(ids)
        last = len(ids) - ids[::-1].index(end)
        return (*ids[: ids.index(start)], *ids[last:])

    def target(self, text: str) -> tuple[int, ...]:
        """Token ids of an assistant turn, and its end. Tags of a trace may be tokens; no other
        token steers, and control tokens at the end of the text are left out."""
        return (*self.plain_ids(self.control_tokens.without_end(text)), self.end_of_turn)

    def text(self, token_ids: Sequence[int]) -> str:
        """Text of token ids with special tokens kept (tags may be special), a final end of turn
        removed."""
        ids = list(token_ids)
        if ids and ids[-1] == self.end_of_turn:
            ids.pop()
        return self._decode(ids)

    def label_codes(self, labels: LabelSet) -> dict[str, Code]:
        """Tokens that stand for each label where the label is asked for, one where the vocabulary
        has it. A code that begins another one ends with the end of the turn.

        Raises ConfigError for a label that does not decode back to itself.
        """
        codes = {name: self.plain_ids(name) for name in labels.names}
        for name, code in codes.items():
            if labels.find(self._decode(code)) != name:
                raise ConfigError(
                    f"label {name!r} does not survive the tokenizer (ids {code}); rename the label "
                    "or add it to the tokenizer's vocabulary"
                )
        return tell_apart(codes, lambda name: (*codes[name], self.end_of_turn))

    def answer_logprob(
        self, token_ids: Sequence[int], logprobs: Sequence[float], labels: LabelSet
    ) -> float | None:
        """Sum of the logprobs of the tokens in the first answer block; None without such a block.

        A tag may be one token or several; a token that holds the end of a tag and the beginning of
        the answer counts. Where the label begins another one, so does the tag that ends it.
        """
        written = self._answer(token_ids)
        if written is None:
            return None
        first, end = bisect.bisect_right(written.ends, written.start), written.end
        name = labels.answer_in(self.text(token_ids))
        if name is not None and self._begins_another(name, written.lead, labels.names):
            end += len(_END_OF_ANSWER)
        last = bisect.bisect_left(written.ends, end) if end > written.start else first - 1
        return float(sum(logprobs[first : last + 1]))

    def answer_codes(
        self, token_ids: Sequence[int], labels: LabelSet
    ) -> tuple[Code, dict[str, Code]] | None:
        """Token ids before the first answer, and the continuation for each label; None without an
        answer block.

        Before: whole tokens up to ``<answer>``. If a token holds the end of the tag and more, it
        begins the codes; so does the space that was written in front of the label. A code that
        begins another one ends with ``</answer>``.
        """
        written = self._answer(token_ids)
        if written is None:
            return None
        codes = self._codes_after(written.lead, labels.names)
        return tuple(token_ids[: written.num_before]), dict(codes)

    def answer_turns(
        self, token_ids: Sequence[int], labels: LabelSet
    ) -> tuple[Code, dict[str, Code]] | None:
        """Candidates of a policy's answer after its own reasoning: token ids of the trace up to
        where the answers differ, and for each label the tokens that follow, to the label's end
        (of one that begins another: to the end of the turn); None without a think block.

        The softmax of the codes' logprobs is the policy's probability of each label. What the
        policy wrote between reasoning and answer stays, and so does space around its answer; tokens
        are those that the whole turn has, also where one holds the end of a tag and more.
        """
        shown = [self._decode([token]) for token in token_ids]
        text, ends = "".join(shown), list(itertools.accumulate(map(len, shown)))
        _, opened, inside = text.partition(_THINK)
        _, closed, after = inside.partition(_END_OF_THINK)
        if not (opened and closed):
            return None
        _, has_answer, rest = after.partition(_ANSWER)
        if has_answer:
            border, lead, tail = len(text) - len(rest) - len(_ANSWER), "", ""
            answer, closed, _ = rest.partition(_END_OF_ANSWER)
            if answer.strip():
                lead = answer[: len(answer) - len(answer.lstrip())]
                tail = answer[len(answer.rstrip()) :] if closed else ""
            begun = _ANSWER + lead
        else:  # the tag that ends the reasoning may share a token with the answer's
            border, tail = len(text) - len(after) - len(_END_OF_THINK), ""
            begun = _END_OF_THINK + _ANSWER
        num_before = bisect.bisect_right(ends, border)
        torn = text[ends[num_before - 1] if num_before else 0 : border]
        shared, codes = self._turns_between(torn + begun, tail, labels.names)
        return (*token_ids[:num_before], *shared), dict(codes)

    def _turns_of(
        self, begun: str, tail: str, names: tuple[str, ...]
    ) -> tuple[Code, dict[str, Code]]:
        """Tokens that all answers begin with, and those of each that follow, to the label's end."""
        turns = {
            name: (*self.plain_ids(begun + name + tail + _END_OF_ANSWER), self.end_of_turn)
            for name in names
        }
        ended = {name: self._until(turn, begun + name) for name, turn in turns.items()}
        codes = tell_apart(ended, lambda name: turns[name])
        alike = itertools.takewhile(
            lambda column: len(set(column)) == 1, zip(*codes.values(), strict=False)
        )
        shared = tuple(column[0] for column in alike)
        return shared, {name: code[len(shared) :] for name, code in codes.items()}

    def _until(self, token_ids: Code, text: str) -> Code:
        """The first tokens that hold all of a text."""
        ends = range(1, len(token_ids))
        reached = (end for end in ends if self._decode(token_ids[:end]).startswith(text))
        return token_ids[: next(reached, len(token_ids))]

    def _begins_another(self, name: str, lead: str, names: tuple[str, ...]) -> bool:
        return self._codes_after(lead, names)[name] != self.plain_ids(lead + name)

    def _codes_of(self, lead: str, names: tuple[str, ...]) -> dict[str, Code]:
        """Tokens of each label after ``lead`` in an answer block."""
        codes = {name: self.plain_ids(lead + name) for name in names}
        return tell_apart(codes, lambda name: self.plain_ids(lead + name + _END_OF_ANSWER))

    def _answer(self, token_ids: Sequence[int]) -> "_Answer | None":
        """The first answer block; None without one."""
        # one by one: a character of several tokens is lost, but tags are ASCII
        shown = [self._decode([token]) for token in token_ids]
        text = "".join(shown)
        before, opened, rest = text.partition(_ANSWER)
        answer, closed, _ = rest.partition(_END_OF_ANSWER)
        if not closed:
            return None
        ends = list(itertools.accumulate(len(piece) for piece in shown))
        return _Answer(ends, text, len(before) + len(opened), answer)

    def check_round_trip(self) -> None:
        """Raise ConfigError unless the tags of a trace survive encoding and decoding."""
        back = self.text(self.target(_TRACE))
        tags = [part for part in back.split() if part.startswith("<")]
        if tags != ["<think>", "</think>", "<answer>", "</answer>"]:
            raise ConfigError(
                f"the tokenizer turns {_TRACE!r} into {back!r}: traces could not be judged; "
                "use a tokenizer that keeps <think> and <answer> tags"
            )

    def check_template(self, *, with_system: bool = False) -> None:
        """Raise ConfigError unless the chat template can be used and shows a video once, and a
        system turn if there is to be one."""
        from jinja2 import TemplateError

        system = [Message("system", (_SYSTEM,))] if with_system else []
        try:
            shown = self._text([*system, Message("user", ("a",), has_video=True)])
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
        if with_system and shown.count(_SYSTEM) != 1:
            raise ConfigError(
                f"the model's chat template shows a system turn as {shown!r}, without its text; "
                "put prompts.system into the other texts, and leave it empty"
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
        shown = str(
            self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        )
        # templates of "thinking" models write the tag that a trace begins with
        begun = shown.rstrip()
        return begun.removesuffix("<think>") if begun.endswith("<think>") else shown

    def plain_ids(self, text: str) -> Code:
        """Token ids of a text, of which none steers."""
        return self._ids(self.control_tokens.cut(text))

    def _decode(self, token_ids: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(
                list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def _ids(self, text: str) -> tuple[int, ...]:
        ids: list[int] = []
        for piece in pieces(text):
            ids += self._tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]
        return tuple(ids)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0]
