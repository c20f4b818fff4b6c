"""Checks before an engine starts, with the same messages in `run` and `check`.

    recipe -> manifest and splits, model folder, context, first prompt -> (cluster/session.py)

Each function raises UserError for its own subject, and starts nothing.
"""

import asyncio
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.config.kinds.calibrate import CalibrateStage
from cluster.config.kinds.rationales import RationalesStage
from cluster.config.kinds.semantic_tokens import SemanticTokensStage
from cluster.config.kinds.sft import SftStage
from cluster.config.recipe import RunConfig
from cluster.inputs.model_folder import with_local_model
from cluster.inputs.samples import SampleSplits, read_samples
from cluster.inputs.scorer import try_functions
from cluster.metrics.sinks import check_logging
from rollout.prompt_columns import check_columns
from rollout.render import PromptTooLong, Renderer
from video.cache import ClipStore
from video.config import VideoConfig
from video.disk_cache.location import cache_folder
from video.families import family_of
from video.processor import ClipProcessor
from video.semantic_tokens.embedding_narrator import VideoTokens
from wire.errors import ClipError, ConfigError, DataError
from wire.types import Sample

_TRIED = 8
# vLLM's: with these, max_position_embeddings is the scaled length already
_SCALED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")


def open_model(config: RunConfig) -> Renderer:
    """Check a model folder and load its renderer. Raises ConfigError."""
    if not config.model.is_dir():
        raise ConfigError(
            f"there is no model directory {config.model}; give 'model' as the path of one"
        )
    family_of(config.model)
    if any(isinstance(s, SemanticTokensStage) and s.render == "embeddings" for s in config.chain):
        VideoTokens.load(config.model)
    with_own = (stage for stage in config.chain if isinstance(stage, CalibrateStage | SftStage))
    adapters = (config.learner.lora, *(stage.lora for stage in with_own))
    for lora in filter(None, dict.fromkeys(adapters)):
        from learner.model.lora import check_targets  # torch: only where it is needed
        from learner.model.trained_parts import frozen_parts

        check_targets(config.model, lora, frozen_parts(config.learner))
    renderer = Renderer.load(config.model, config.rollout.max_prompt_length)
    renderer.check_template(with_system=bool(config.prompts.system))
    renderer.check_round_trip()
    if any(stage.asks_labels for stage in config.chain):
        renderer.label_codes(config.label_set)
    return renderer


def read_context(model: Path) -> int | None:
    """Context length of a model, tokens; None if its ``config.json`` does not give one."""
    values: dict[str, Any] = json.loads((model / "config.json").read_text(encoding="utf-8"))
    text = values.get("text_config") or values
    limit = text.get("max_position_embeddings") or values.get("max_position_embeddings")
    if not isinstance(limit, int):
        return None
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type"))
    return limit if kind in _SCALED else int(limit * (rope.get("factor") or 1))


def check_context(config: RunConfig) -> int | None:
    """Check that prompt and response fit the model's context length, and return it, as
    :func:`read_context` does.

    Raises ConfigError if they may be longer: vLLM refuses to start then.
    """
    most = read_context(config.model)
    if most is None:
        return None
    rollout = config.rollout
    if rollout.max_model_len > most:
        raise ConfigError(
            f"rollout.max_prompt_length = {rollout.max_prompt_length} and max_response_length = "
            f"{rollout.max_response_length} make {rollout.max_model_len} tokens, and the model has "
            f"positions for {most}; lower one of them"
        )
    return most


def open_cache(config: VideoConfig) -> None:
    """Make the folder of the clip cache, if it is not there. Raises ConfigError if the recipe names
    one that cannot be written; a node's own is done without (video/disk_cache/folder.py)."""
    folder = cache_folder(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if config.cache_dir is None:
            return
        raise ConfigError(
            f"cannot write the clip cache {folder}: {error.strerror}; set video.cache_dir to a "
            "folder that can be written, or leave it away for each node's temporary disk"
        ) from error


def check_first_prompt(config: RunConfig, samples: Sequence[Sample], renderer: Renderer) -> None:
    """Raise DataError if the prompt of the first readable clip, with the longest text of all, does
    not fit. (Other clips may be longer: those become prompt failures of the run.)"""
    if not samples:
        return
    folder = cache_folder(config.video)
    clips = ClipStore(folder, ClipProcessor(config.model), config.video)
    writing = [stage.ask for stage in config.chain if isinstance(stage, RationalesStage)]
    asked = [
        (config.prompt_set.ask(kind, sample), sample.id)
        for kind in dict.fromkeys(("trace", *writing))
        for sample in samples
    ]
    messages, longest = max(asked, key=lambda pair: sum(len(turn.text) for turn in pair[0]))
    for sample in samples[:_TRIED]:
        try:
            renderer.prompt(messages, clips.get(sample.video))
        except PromptTooLong as error:
            clip = "" if longest == sample.id else f", about the clip of {sample.id}"
            raise DataError(f"sample {longest}{clip}: {error}") from error
        except ClipError:
            continue
        return


def check(
    config: RunConfig, check_data: Callable[[SampleSplits], None]
) -> tuple[SampleSplits, Renderer]:
    """Check all that can be wrong before an engine starts; ``check_data``: the check of the samples
    by the stages or arms of this session. Raises UserError (ConfigError, DataError)."""
    check_logging(config.logging)
    samples = read_samples(config)
    data = SampleSplits(samples=samples)
    check_data(data)
    check_columns(config.prompt_set, samples)
    renderer = open_model(config)
    check_context(config)
    asyncio.run(try_functions(config, samples))
    open_cache(config.video)
    check_first_prompt(config, samples, renderer)
    return data, renderer


def bring_model(config: RunConfig, check_data: Callable[[SampleSplits], None]) -> RunConfig:
    """Download the recipe's model if needed, and return the recipe with its folder. Faults of the
    samples are reported before a download. Raises UserError."""
    if not config.model.is_dir():
        samples = read_samples(config)
        check_data(SampleSplits(samples=samples))
        check_columns(config.prompt_set, samples)
    return with_local_model(config)
