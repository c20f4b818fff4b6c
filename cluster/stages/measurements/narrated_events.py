"""Events that the narratives of a stage's clips tell, by the names of its tokenizer's codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.inputs.narration import narration_of
from cluster.session import Session
from video.disk_cache.location import cache_folder
from video.processor import ClipProcessor
from video.semantic_tokens.description import TokenizerDescription
from video.semantic_tokens.narrated_clips import NarratedClips
from video.semantic_tokens.narrative import Runs
from wire.types import Sample


class Narratives(Protocol):
    """Gives narratives; video/semantic_tokens/narrated_clips.py implements it."""

    def narrative(self, address: str) -> Runs:
        """The narrative at an address, under its view."""
        ...


@dataclass(frozen=True, slots=True)
class NarratedEvents:
    """Events of narratives, and the names of all events."""

    clips: Narratives
    per_code: tuple[str, ...]
    """Name of each code; several codes may share one."""

    @classmethod
    def of(cls, session: Session, stage: str) -> "NarratedEvents | None":
        """Of the narratives that a stage shows; None: it shows videos."""
        config, tokenizer = session.config, session.config.chain.tokenizer(stage)
        if tokenizer is None:
            return None
        narration = narration_of(config, session.run_dir.path, tokenizer)
        clips = NarratedClips(cache_folder(config.video), ClipProcessor(config.model), config.video)
        clips.use(narration, session.renderer.plain_ids)
        return cls(clips, TokenizerDescription.read(narration.folder).names)

    @property
    def names(self) -> Sequence[str]:
        """Names of all events."""
        return tuple(dict.fromkeys(self.per_code))

    def told_of(self, sample: Sample) -> Sequence[str]:
        """Names of the events in a sample's narrative, in their order."""
        return [self.per_code[run.code] for run in self.clips.narrative(sample.video)]
