"""Remote engines of a classifier: vLLM servers that hold its weights, found by model name, and
proved before they answer.

    classifier -> names of its models -> the server that lists each -> RemoteEngine
        -> logprobs of one prompt about a made clip, there and here (PyTorch, the published weights)

A server with other weights, a processor of its own or another precision would give calibrated
numbers that mean nothing; nothing in its answers would show it.
"""

import asyncio
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from calibrate.classifier import Classifier
from rollout.config import RolloutConfig
from rollout.engine import Sampling
from rollout.message import Message
from rollout.remote_engine import RemoteEngine, model_names
from rollout.render import Renderer
from video.config import VideoConfig
from video.decode import DecodedClip
from video.positions import PositionRule
from video.processor import ClipProcessor, ProcessedClip
from wire.errors import ConfigError
from wire.types import Prompt

KEY_VARIABLE = "DEEPINTUIT_ENGINE_KEY"
"""Environment variable with the servers' API key."""
_FRAMES, _SIDE, _ANSWER_TOKENS = 4, 112, 8
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
"""Of the mean difference of a logprob, nats; a clip normalised twice is further off than 0.1."""

Part = Literal["policy", "verdict"]


def model_name(classifier: Classifier, part: Part) -> str:
    """Name under which a server must serve a part of a classifier; it holds its version."""
    return f"deepintuit-{classifier.version[:12]}-{part}"


@dataclass(frozen=True, kw_only=True)
class RemoteEngines:
    """Servers of one classifier's weights.

    Example:
        RemoteEngines(classifier=classifier, urls=("http://gpu1:8000",), config=config,
                      renderer=renderer, video=video)
    """

    classifier: Classifier
    urls: tuple[str, ...]
    config: RolloutConfig
    renderer: Renderer
    video: VideoConfig

    async def connect(self, folder: Path, part: Part, adapter: Path | None) -> RemoteEngine:
        """Engine with the weights in ``folder``. ``adapter``: the verdict's, which its server holds
        beside them. Raises ConfigError if no server has them, or one answers otherwise;
        GenerationError, DeadlineExceeded if one does not answer at all."""
        name = model_name(self.classifier, part)
        key = os.environ.get(KEY_VARIABLE)
        url = await self._url_of(name, folder, adapter, key)
        engine = await RemoteEngine.connect(
            url,
            name,
            dtype=self.config.dtype,
            rule=PositionRule.load(folder),
            blocked_tokens=self.renderer.blocked_tokens(),
            adapter_model=model_name(self.classifier, "verdict") if adapter else None,
            key=key,
            timeout_s=self.config.request_timeout_s,
        )
        try:
            await self._prove(engine, folder, url)
        except BaseException:
            await engine.end()
            raise
        return engine

    async def _url_of(self, name: str, folder: Path, adapter: Path | None, key: str | None) -> str:
        listed = await asyncio.gather(*[model_names(url, key) for url in self.urls])
        for url, names in zip(self.urls, listed, strict=True):
            if name in names:
                return url
        there = ", ".join(sorted({one for names in listed for one in names})) or "no model"
        raise ConfigError(
            f"no server at {', '.join(self.urls)} serves {name} (they serve {there}); start one: "
            + self.command(name, folder, adapter)
        )

    def command(self, name: str, folder: Path, adapter: Path | None) -> str:
        """Command line of a server with these weights."""
        words = [
            f"vllm serve {shlex.quote(str(folder))} --served-model-name {name}",
            f"--enable-scale-out --no-mm-device-do-normalize --dtype {self.config.dtype}",
            f"--max-model-len {self.config.max_model_len}",
            """--limit-mm-per-prompt '{"video": 1}'""",
        ]
        if adapter is not None:
            verdict = model_name(self.classifier, "verdict")
            words.append(f"--enable-lora --lora-modules {verdict}={shlex.quote(str(adapter))}")
        return " ".join(words)

    async def _prove(self, engine: RemoteEngine, folder: Path, url: str) -> None:
        """Compare logprobs of an answer of the server with those of the published weights."""
        prompt, clip = await asyncio.to_thread(self._question, folder)
        sampling = Sampling(n=1, temperature=0.0, max_tokens=_ANSWER_TOKENS, seed=0)
        (answer,) = (await engine.generate(prompt, clip, sampling)).answers
        here = await asyncio.to_thread(
            _logprobs_here, folder, self.config.dtype, prompt, clip, answer.token_ids
        )
        gap = float(np.abs(np.array(here) - np.array(answer.logprobs)).mean())
        if not gap <= _TOLERANCE[self.config.dtype]:
            raise ConfigError(
                f"the server at {url} answers otherwise than the weights in {folder}: logprobs "
                f"differ by {gap:.3g} nats (mean), {_TOLERANCE[self.config.dtype]:g} is allowed in "
                f"{self.config.dtype}; start it as "
                + self.command(model_name(self.classifier, "policy"), folder, None)
            )

    def _question(self, folder: Path) -> tuple[Prompt, ProcessedClip]:
        """A prompt about a made clip: bright noise, which another normalisation changes much."""
        frames = np.random.default_rng(0).integers(
            128, 256, (_FRAMES, _SIDE, _SIDE, 3), dtype=np.uint8
        )
        made = DecodedClip(
            frames=frames,
            frame_indices=tuple(range(_FRAMES)),
            timestamps_s=tuple(index / 2 for index in range(_FRAMES)),
            fps=2.0,
            total_frames=_FRAMES,
            native_fps=2.0,
            seconds=_FRAMES / 2,
        )
        clip = ClipProcessor(folder).process(made, self.video, clip_key="made")
        asked = [Message("user", ("What happens?",), has_video=True)]
        return self.renderer.prompt(asked, clip, bounded=False), clip


def _logprobs_here(
    folder: Path, dtype: str, prompt: Prompt, clip: ProcessedClip, token_ids: Sequence[int]
) -> list[float]:
    """Logprobs of an answer by the published weights, in this process, on the CPU."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from learner.model.policy import Policy
    from learner.shared_prefix.batch import make_batch
    from learner.shared_prefix.rows import supervised_row

    disable_progress_bar()
    policy = Policy.load(folder, dtype).requires_grad_(False).eval()
    row = supervised_row(prompt, "", token_ids)
    batch = make_batch([row], lambda _: clip, PositionRule.load(folder))
    with torch.no_grad():
        scores = policy(batch)
    return [float(value) for value in scores.logp]
