"""Files of a run's semantic tokenizers, and the check that a stage finds the one that it reads.

stages/NAME/tokenizer, codes.jsonl + how stage NAME renders -> Narration -> workers and ranks
"""

from pathlib import Path

from cluster.config.kinds.semantic_tokens import SemanticTokensStage
from cluster.config.recipe import RunConfig
from cluster.run_files import read_result
from video.semantic_tokens.narrated_clips import Narration
from wire.errors import ConfigError


def tokenizer_folder(run_dir: Path, stage: str) -> Path:
    """The directory of the tokenizer that a stage leaves."""
    return run_dir / "stages" / stage / "tokenizer"


def codes_path(run_dir: Path, stage: str) -> Path:
    """The file of the codes of all clips that a stage leaves."""
    return run_dir / "stages" / stage / "codes.jsonl"


def narration_of(config: RunConfig, run_dir: Path, stage: str) -> Narration:
    """Narration by the tokenizer of a stage that has finished."""
    declared = config.chain[stage]
    assert isinstance(declared, SemanticTokensStage), f"{stage} leaves no tokenizer"
    return Narration(
        folder=tokenizer_folder(run_dir, stage).absolute(),
        codes=codes_path(run_dir, stage).absolute(),
        render=declared.render,
        style=declared.style,
    )


def refuse_unread(config: RunConfig, run_dir: Path, stage: str) -> None:
    """Raise ConfigError if a stage is about to show narratives, or learn texts, of a stage that has
    not finished."""
    chain = config.chain
    for what, source in (("narratives", chain.tokenizer(stage)), ("texts", chain.texts(stage))):
        if source is not None and read_result(run_dir, source) is None:
            raise ConfigError(
                f"stage {stage} reads {what} of {source}, which has not finished in {run_dir}; "
                "give `run`, which runs both in their order"
            )
