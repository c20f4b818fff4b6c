"""How long GRPO's longest prompt can be."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.stages.longest_prompt import longest_prompt
from tests.cluster.session_fakes import make_config, make_samples
from tests.learner.builders import VIDEO_TOKEN
from wire.types import Prompt, Sample


async def render(samples: list[Sample]) -> list[tuple[Sample, Prompt]]:
    """Prompts of three video tokens, and a token for every letter of a sample's title."""
    texts = [(50,) * (10 + len(sample.extra["title"])) for sample in samples]
    ids = [(*text, *[VIDEO_TOKEN] * 3) for text in texts]
    prompts = [Prompt(token_ids=tokens, clip_key="c", fingerprint="f") for tokens in ids]
    return list(zip(samples, prompts, strict=True))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cluster.demo.make_model import make_demo_model

    return make_demo_model(tmp_path_factory.mktemp("model"))


def recipe(model_dir: Path, max_prompt_length: int = 1000) -> Any:
    rollout = {"group_size": 2, "dtype": "float32", "max_prompt_length": max_prompt_length}
    video = {"max_frames": 8, "max_pixels": 56 * 56}  # 4 steps of 2 x 2 merged patches
    prompts = {"trace": "{title}"}
    return make_config(model=str(model_dir), rollout=rollout, video=video, prompts=prompts)


def titled(samples: list[Sample]) -> list[Sample]:
    return [replace(sample, extra={"title": ""}) for sample in samples]


async def test_it_is_the_largest_clip_with_the_longest_text(model_dir: Path):
    samples = titled(make_samples(train=20))
    at = int(np.random.default_rng(0).integers(20))
    samples[at] = replace(samples[at], extra={"title": "x" * 100})
    assert await longest_prompt(recipe(model_dir), samples, render) == 16 + 110


async def test_the_recipes_bound_holds(model_dir: Path):
    assert await longest_prompt(recipe(model_dir, 20), titled(make_samples()), render) == 20
    assert await longest_prompt(recipe(model_dir, 12), titled(make_samples()), render) == 12


async def test_a_model_that_does_not_say_gives_the_recipes_bound(tmp_path: Path):
    assert await longest_prompt(recipe(tmp_path / "none"), titled(make_samples()), render) == 1000
