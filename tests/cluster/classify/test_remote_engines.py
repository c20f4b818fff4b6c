"""Remote engines of a classifier: a real vLLM server with the demo's tiny model."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from calibrate.classifier import Classifier
from cluster.classify import remote_engines
from cluster.classify.remote_engines import RemoteEngines, model_name
from rollout.config import RolloutConfig
from rollout.render import Renderer
from tests.vllm_server import vllm_server
from video.config import VideoConfig
from wire.errors import ConfigError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(580)]

MODEL = Path(__file__).parents[3] / "cluster" / "demo" / "base"
CONFIG = RolloutConfig(max_prompt_length=400, max_response_length=40, dtype="float32")


class Published(SimpleNamespace):
    """Stands for a classifier, of which only the version is used."""

    version = "0123456789abcdef"


CLASSIFIER = cast(Classifier, Published())


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("vllm") / "log"
    flags = ["--max-model-len", "512", "--enable-scale-out", "--no-mm-device-do-normalize"]
    flags += ["--limit-mm-per-prompt", '{"video": 1, "image": 0}']
    with vllm_server(MODEL, model_name(CLASSIFIER, "policy"), log, *flags) as url:
        yield url


def engines(*urls: str) -> RemoteEngines:
    return RemoteEngines(
        classifier=CLASSIFIER,
        urls=urls,
        config=CONFIG,
        renderer=Renderer.load(MODEL, 400),
        video=VideoConfig(max_frames=8),
    )


async def test_a_server_with_the_published_weights_gives_their_logprobs(url: str):
    servers = engines(url)
    engine = await servers.connect(MODEL, "policy", None)
    prompt, clip = servers._question(MODEL)
    left, up, grow, end = servers.renderer.target("left up grow")
    codes = [(left, up), (left, end), (grow,), (up, grow, end)]
    got = await engine.label_logprobs(prompt, clip, codes)
    await engine.end()
    here: Any = remote_engines._logprobs_here
    expected = [sum(here(MODEL, "float32", prompt, clip, code)) for code in codes]
    assert np.abs(np.array(got) - np.array(expected)).max() < 1e-4


async def test_a_server_with_other_weights_is_refused_before_it_answers_anything(
    url: str, tmp_path: Path
):
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(MODEL, tmp_path / "other")
    (file,) = other.glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in tensors if "mlp" in name)
    tensors[name] = tensors[name] * 1.5
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"answers otherwise than the weights.*vllm serve"):
        await engines(url).connect(other, "policy", None)


async def test_the_refusal_of_a_server_without_the_model_has_the_command_that_starts_one(url: str):
    with pytest.raises(ConfigError, match=r"serves deepintuit-0123456789ab-verdict.*vllm serve"):
        await engines(url).connect(MODEL, "verdict", None)
