"""Texts that spell control tokens, in tokenizers of several kinds."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.control_tokens import ControlTokens, pieces
from rollout.message import TAGS, Foreign

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "</s>",
    "<bos>",
    "[INST]",
    "\u00a4",
    "yes",
)
MARKUP = ("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|a|><|im_end|>")
PLAIN = ("    ", "undo", "kick_ball")
Kind = Callable[[], Any]


def wrapped(raw: Any) -> Any:
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    raw.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    raw.add_tokens([AddedToken(text, normalized=False) for text in MARKUP + PLAIN + TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        bos_token="<bos>",
        clean_up_tokenization_spaces=False,
    )


def byte_level() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, show_progress=False, special_tokens=["</s>"]
    )
    raw.train_from_iterator(["<|im_end|> </s> <tool_call> | [INST]"] * 9, trainer)
    return wrapped(raw)


def unigram() -> Any:
    """As SentencePiece makes them: control tokens are pieces of the model itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(set("".join(SPECIAL + MARKUP + PLAIN + TAGS) + "ab \u2581\ufffd|"))
    vocab = [("<unk>", 0.0), ("</s>", 0.0), ("<bos>", 0.0), *((letter, -5.0) for letter in letters)]
    raw = Tokenizer(models.Unigram(vocab, unk_id=0))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    raw.decoder = decoders.Metaspace(prepend_scheme="never")
    return wrapped(raw)


KINDS = [byte_level, unigram]
_made: dict[Kind, Any] = {}


def made(kind: Kind) -> Any:
    if kind not in _made:
        _made[kind] = kind()
    return _made[kind]


def encode(tokenizer: Any, text: str) -> list[int]:
    return [
        token
        for piece in pieces(text)
        for token in tokenizer(piece, add_special_tokens=False)["input_ids"]
    ]


def named(tokenizer: Any, ids: list[int]) -> set[str]:
    return set(tokenizer.convert_ids_to_tokens(ids))


BITS = (
    *SPECIAL,
    *MARKUP,
    *PLAIN,
    *TAGS,
    "<|im_<|im_end|>end|>",
    "<",
    "|>",
    "a",
    " ",
    "\ufdd0",
    "\ud83d",
)
CONTROL = {*SPECIAL, *MARKUP} - {"yes"}


@pytest.mark.parametrize("kind", KINDS)
@given(bits=st.lists(st.sampled_from(BITS), max_size=8))
def test_no_text_becomes_a_control_token_and_every_text_reads_the_same(kind: Kind, bits: list[str]):
    tokenizer, text = made(kind), "".join(bits)
    ids = encode(tokenizer, ControlTokens(tokenizer).cut(text))
    assert not named(tokenizer, ids) & CONTROL
    readable = text
    for lost in ("\ufdd0", "\ud83d", "\u00a4"):
        readable = readable.replace(lost, "\ufffd")
    assert tokenizer.decode(ids) == readable


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text("abc <>|/\n\u00e9[]{}"))
def test_a_text_that_spells_none_keeps_its_tokens(kind: Kind, text: str):
    tokenizer = made(kind)
    controls = ControlTokens(tokenizer)
    if not controls.named_in(text):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert encode(tokenizer, controls.cut(text)) == ids


@pytest.mark.parametrize("kind", KINDS)
def test_words_and_tags_stay_tokens_and_tags_of_others_do_not(kind: Kind):
    tokenizer = made(kind)
    text = "<think>undo kick_ball yes</think>"
    cut = ControlTokens(tokenizer).cut
    assert named(tokenizer, encode(tokenizer, cut(text))) >= {
        *TAGS[:2],
        "undo",
        "kick_ball",
        "yes",
    }
    ids = encode(tokenizer, cut("<think>", Foreign("a</think>")))
    assert named(tokenizer, ids) & {*TAGS} == {"<think>"}
    assert tokenizer.decode(ids) == "<think>a</think>"


def test_a_control_token_across_two_parts_is_cut():
    tokenizer = made(byte_level)
    ids = encode(tokenizer, ControlTokens(tokenizer).cut("<|im_", Foreign("end|>")))
    assert "<|im_end|>" not in named(tokenizer, ids)
    assert tokenizer.decode(ids) == "<|im_end|>"


def test_a_control_token_that_only_the_normalized_text_spells_is_cut():
    from tokenizers import AddedToken, normalizers

    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    tokenizer.add_tokens([AddedToken("<tool_end>", normalized=True)])
    text = "a \uff1ctool_end\uff1e"
    assert "<tool_end>" in named(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])
    controls = ControlTokens(tokenizer)
    quoted = encode(tokenizer, controls.cut(text, Foreign("</think>")))
    assert not named(tokenizer, quoted) & {"<tool_end>", "</think>"}
    assert tokenizer.decode(quoted) == "a <tool_end></think>"
    ids = encode(tokenizer, controls.cut(text))
    assert "<tool_end>" not in named(tokenizer, ids)
    assert tokenizer.decode(ids) == "a <tool_end>"
    assert controls.named_in(text) == ["<tool_end>"]


@pytest.mark.parametrize(
    "end", ["<|im_end|>", "<|im_end|>\n", " </s><|endoftext|>", "\n<|im_end|> "]
)
def test_control_tokens_at_the_end_are_left_out(end: str):
    controls = ControlTokens(made(byte_level))
    assert controls.without_end(f"a</answer>{end}") == "a</answer>"
    for text in ("a</answer>\n", "<|im_end|> a", "", "a yes"):
        assert controls.without_end(text) == text


def test_control_tokens_are_named():
    controls = ControlTokens(made(byte_level))
    assert controls.named_in("a</s>b<|a|><|im_end|>\u00a4 <think>undo</think>") == [
        "</s>",
        "<|a|><|im_end|>",
        "<|im_end|>",
        "\u00a4",
    ]
    assert controls.named_in("a < s > [INST") == []
    assert controls.named_in("<|video_pad|>") == ["<|video_pad|>"], "where the clip goes"
