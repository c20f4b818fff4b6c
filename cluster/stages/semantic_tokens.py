"""Learning of a semantic tokenizer: features of a frozen tower -> tokenizer -> codes of all clips.

    clips -> prompts -> learner's tower, through the embedding cache -> segments on disk
    train clips + mentions in their texts -> fit -> stages/NAME/tokenizer
    all clips -> stages/NAME/codes.jsonl -> stages with input = "tokens"

A stage that was interrupted begins anew: the tower's features are in the embedding cache, and the
same seed gives the same tokenizer.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from calibrate.splitting.text_encoders import PolicyEmbeddings
from cluster.config.kinds.semantic_tokens import SemanticTokensStage
from cluster.driver.progress import console, progress_bar
from cluster.inputs.narration import codes_path, tokenizer_folder
from cluster.run_files import tokenizer_outcome
from cluster.session import Session
from cluster.stages.stage import StageRun
from learner.config import OptimConfig
from learner.semantic_tokens.fit import Fitted, fit_tokenizer
from learner.shared_prefix.rows import Row
from rollout.rationales.rationale_file import iter_rationales
from video.semantic_tokens.codes_file import CodesFile, write_codes
from video.semantic_tokens.config import SemanticTokensConfig
from video.semantic_tokens.embedding_narrator import soft_path
from video.semantic_tokens.mentions import mentions
from video.semantic_tokens.narrative import runs
from video.semantic_tokens.segment_file import SegmentFile, SegmentWriter
from video.semantic_tokens.tokenizer import SemanticTokenizer
from wire.daemon_thread import run_in_daemon_thread
from wire.errors import ConfigError
from wire.types import Sample

_CLIPS_PER_READ = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedClips:
    """Segments of all clips that can be read."""

    segments: SegmentFile
    keys: Mapping[str, str]
    """Clip key of each sample, by its id."""


async def run_semantic_tokens(session: Session, run: StageRun) -> dict[str, Any]:
    """Learn a tokenizer, or take a finished one, and tokenize all clips of the manifest."""
    stage, folder = run.of(SemanticTokensStage), session.run_dir.path
    await session.start_training(run.start.model_dir, OptimConfig())
    tower = await session.learner.tower()
    if tower is None:
        raise ConfigError(
            f"stage {stage.name} needs a frozen vision tower whose features are cached; set "
            "learner.freeze_vision_tower, freeze_merger and embedding_cache to true"
        )
    finished = None
    if stage.tokenizer is not None:  # a wrong one is refused before the tower sees a clip
        finished = SemanticTokenizer.load(stage.tokenizer, tower=tower)
    path = tokenizer_folder(folder, stage.name).with_name("segments")
    config = settings_of(stage) if finished is None else finished.config
    clips = await _segments(session, config, path, tower, stage.name)
    if finished is None:
        fitted = await _fit(session, run, clips)
        tokenizer, figures = fitted.tokenizer, fitted.figures
    else:
        tokenizer, figures = finished, {}
    await run_in_daemon_thread(tokenizer.save, tokenizer_folder(folder, stage.name))
    codes = codes_path(folder, stage.name)
    await run_in_daemon_thread(_write_codes, codes, tokenizer, clips.segments, stage.name)
    if stage.render == "embeddings" and not config.quantise:
        await run_in_daemon_thread(_write_soft, soft_path(codes), tokenizer, clips.segments)
    path.unlink()
    learned = {sample.id for sample in stage.clips.of(session.data.samples)} & clips.keys.keys()
    others = [clips.keys[id_] for id_ in sorted(clips.keys.keys() - learned)]
    result = {
        "tokenizer": {"version": tokenizer.version, "tower": tokenizer.tower},
        "figures": figures,
        "others": narrative_figures(CodesFile.read(codes), others),
        "num_clips": len(clips.keys),
        "num_learned": len(learned) if finished is None else 0,
        "num_failed": len(session.data.samples) - len(clips.keys),
        "length": stage.epochs,
    }
    console.print(f"{stage.name}: {tokenizer_outcome(result)}", soft_wrap=True)
    return result


def settings_of(stage: SemanticTokensStage) -> SemanticTokensConfig:
    """The tokenizer's own settings of a stage."""
    own = {name: getattr(stage, name) for name in SemanticTokensConfig.model_fields}
    return SemanticTokensConfig(**own)


def narrative_figures(codes: CodesFile, clips: Sequence[str]) -> dict[str, float]:
    """Figures of narratives of clips that the tokenizer did not learn from; empty without clips."""
    stories = [codes.codes(clip) for clip in clips]
    actions, segments = sum(len(runs(clip)) for clip in stories), sum(map(len, stories))
    if not segments:
        return {}
    return {
        "num_clips": float(len(stories)),
        "codes_used": float(len({code for clip in stories for code in clip})),
        "switch_rate": (actions - len(stories)) / max(segments - len(stories), 1),
        "mean_run_length": segments / actions,
    }


async def _segments(
    session: Session, config: SemanticTokensConfig, path: Path, tower: str, name: str
) -> TokenizedClips:
    """Segments of all clips that can be read, on disk."""
    keys: dict[str, str] = {}
    samples, learner = session.data.samples, session.learner
    with progress_bar(f"{name} clips", len(samples)) as bar, ExitStack() as stack:
        writer: SegmentWriter | None = None
        async for pairs in session.prompt_blocks(samples, "label"):
            rest = iter(pairs)
            rows = (Row(prompt=prompt, video=s.video, responses=()) for s, prompt in pairs)
            async for block in learner.segment_blocks(rows, config.spatial, config.segment_steps):
                for segments, (sample, prompt) in zip(block, rest, strict=False):
                    if writer is None:  # the tower's width is known with the first clip
                        _, places, width = segments.shape
                        writer = stack.enter_context(
                            SegmentWriter(path, tower=tower, places=places, width=width)
                        )
                    writer.add(prompt.clip_key, segments)
                    keys[sample.id] = prompt.clip_key
                bar.advance(len(block))
    return TokenizedClips(segments=SegmentFile.open(path), keys=keys)


async def _fit(session: Session, run: StageRun, clips: TokenizedClips) -> Fitted:
    """Fit a tokenizer to the clips that the stage learns from."""
    stage = run.of(SemanticTokensStage)
    learned = [s for s in stage.clips.of(session.data.samples) if s.id in clips.keys]
    attributes = stage.attributes or session.config.label_set.names
    texts = texts_of(stage, learned, session.run_dir.path)
    encoder = PolicyEmbeddings(run.start.model_dir, run.start.model_dir.name)
    vectors = await run_in_daemon_thread(encoder.encode, attributes)
    with progress_bar(f"{stage.name} epochs", stage.epochs) as bar:
        return await run_in_daemon_thread(
            partial(
                fit_tokenizer,
                clips.segments.subset([clips.keys[sample.id] for sample in learned]),
                [mentions(texts.get(sample.id, ()), attributes) for sample in learned],
                attributes,
                torch.from_numpy(vectors),
                settings_of(stage),
                seed=stage.seed,
                progress=lambda done, total, losses: bar.advance(
                    note=" ".join(f"{name} {value:.3f}" for name, value in losses.items())
                ),
            )
        )


def texts_of(
    stage: SemanticTokensStage, samples: Sequence[Sample], run_dir: Path
) -> dict[str, tuple[str, ...]]:
    """Texts that say what happens in each clip, by the sample's id; none for a clip without."""
    kind, _, name = stage.texts.partition(":")
    if kind == "stage":
        written = defaultdict[str, list[str]](list)
        for one in iter_rationales(run_dir, name):
            if one.kept:
                written[one.id].append(one.text)
        return {id_: tuple(texts) for id_, texts in written.items()}
    return {sample.id: stage.texts_of(sample) for sample in samples}


def _write_soft(path: Path, tokenizer: SemanticTokenizer, segments: SegmentFile) -> None:
    """Write the vectors of all clips as they are before codes, for the ablation that shows them."""
    width = segments.width
    with SegmentWriter(path, tower=segments.tower, places=1, width=width) as writer:
        for place, key in enumerate(segments.clips):
            (clip,) = segments.read([place])
            writer.add(key, tokenizer.soft(torch.from_numpy(clip))[:, None].numpy())


def _write_codes(
    path: Path, tokenizer: SemanticTokenizer, segments: SegmentFile, name: str
) -> None:
    with progress_bar(f"{name} codes", len(segments)) as bar:

        def codes() -> Iterator[tuple[str, tuple[int, ...]]]:
            for start in range(0, len(segments), _CLIPS_PER_READ):
                which = range(start, min(start + _CLIPS_PER_READ, len(segments)))
                for place, clip in zip(which, segments.read(which), strict=True):
                    yield segments.clips[place], tokenizer.codes(torch.from_numpy(clip))
                bar.advance(len(which))

        write_codes(path, tokenizer.version, tokenizer.config.num_codes, codes())
