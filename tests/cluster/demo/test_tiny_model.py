import re

import numpy as np
import pytest
import torch

from cluster.demo.batches import Preparer, through_codec
from cluster.demo.events import DEFINITIONS, EVENTS, ORDINALS, RELATIONS, teacher_trace
from cluster.demo.make_model import make_demo_model
from cluster.demo.render import render
from cluster.demo.scenes import POOLS, draw_scene
from cluster.demo.sight import see
from cluster.demo.texts import caption, sentence
from cluster.demo.tiny_model import BASE_DIR, TAGS

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def processor():
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(BASE_DIR)


@pytest.fixture(scope="module")
def model():
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration.from_pretrained(BASE_DIR, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def clips():
    return [render(draw_scene(POOLS["train"], ("left", "up", "grow"), seed)) for seed in range(3)]


def test_the_shipped_model_is_small():
    assert sum(file.stat().st_size for file in BASE_DIR.iterdir()) < 6 * MEGABYTE
    assert (BASE_DIR / "README.md").is_file()


def test_making_the_model_copies_the_shipped_one(tmp_path):
    out = make_demo_model(tmp_path / "model")
    for file in BASE_DIR.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_is_one_token_that_is_not_special(processor, tag):
    tokenizer = processor.tokenizer
    ids = tokenizer(tag, add_special_tokens=False)["input_ids"]
    assert len(ids) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == tag


@pytest.mark.parametrize("word", [*EVENTS, *RELATIONS, *ORDINALS, *DEFINITIONS])
def test_a_word_of_the_task_is_one_token_with_and_without_a_space(processor, word):
    assert len(processor.tokenizer(word)["input_ids"]) == 1
    assert len(processor.tokenizer(f" {word}")["input_ids"]) == 1


def test_a_trace_comes_back_unchanged_from_the_tokenizer(processor):
    trace = teacher_trace(("left", "up", "grow"))
    ids = processor.tokenizer(trace)["input_ids"]
    assert len(ids) == 15
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == trace


def test_any_other_text_survives_too(processor):
    text = "Ein Film \u00fcber B\u00e4ren; caf\u00e9, 42%!"
    assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text


def test_a_clip_of_the_demo_gives_24_video_tokens(processor, clips):
    seen = processor(
        text=["<|vision_start|><|video_pad|><|vision_end|>"],
        videos=[clips[0]],
        do_sample_frames=False,
        fps=4.0,
        return_tensors="pt",
    )
    assert seen["video_grid_thw"].tolist() == [[6, 4, 4]]
    assert int((seen["input_ids"] == processor.video_token_id).sum()) == 24


@pytest.mark.parametrize(("height", "width"), [(480, 640), (20, 30), (1080, 608)])
def test_other_sizes_are_brought_into_bounds(processor, height, width):
    frames = np.zeros((4, height, width, 3), np.uint8)
    seen = processor.video_processor(videos=[frames], do_sample_frames=False, return_tensors="pt")
    _, rows, columns = seen["video_grid_thw"][0].tolist()
    assert 16 <= rows * columns <= 64


def test_fast_patches_are_those_of_the_processor(model, processor, clips):
    preparer = Preparer(model, processor)
    seen = processor.video_processor(videos=clips, do_sample_frames=False, return_tensors="pt")
    fast = preparer.pixels(clips).flatten(0, 1)
    torch.testing.assert_close(fast, seen["pixel_values_videos"], atol=1e-5, rtol=0)
    assert tuple(seen["video_grid_thw"][0].tolist()) == preparer.grid


@torch.no_grad()
def test_fast_sight_is_that_of_the_model(model, processor, clips):
    preparer = Preparer(model, processor)
    pixels = preparer.pixels(clips)
    grids = torch.tensor([preparer.grid] * len(clips))
    slow = model.model.visual(pixels.flatten(0, 1), grids).pooler_output
    torch.testing.assert_close(
        see(model.model.visual, pixels, preparer.grid).flatten(0, 1), slow, atol=1e-4, rtol=1e-4
    )


def test_codec_keeps_frames_recognisable(clips):
    back = through_codec(clips[0])
    assert back.shape == clips[0].shape
    assert np.abs(back.astype(int) - clips[0]).mean() < 6


def test_no_video_question_or_answer_names_a_label():
    rng = np.random.default_rng(0)
    for _ in range(300):
        exchange = caption(("left", "left", "right"), rng)
        words = re.findall(r"\w+", f"{exchange.question} {exchange.answer}")
        assert not set(words) & set(DEFINITIONS)


def test_no_sentence_joins_a_label_to_events_or_relations_of_a_clip():
    rng = np.random.default_rng(0)
    for _ in range(500):
        exchange = sentence(rng)
        assert not exchange.has_video
        if " then " in exchange.answer and exchange.answer not in DEFINITIONS.values():
            assert not any(label in exchange.answer for label in DEFINITIONS)
