"""Settings of a split benchmark: which methods, seeds, and settings of each."""

from enum import StrEnum

from pydantic import Field, field_validator

from calibrate.splitting.config import AlignmentConfig, LowShotConfig, RetrievalConfig
from wire.config import Config


class SplitMethod(StrEnum):
    """Way to get the rows of the sub-classes."""

    RETRIEVAL = "retrieval"
    """MR: the vector of the most similar dictionary entry, each entry once per split."""
    ARGMAX = "argmax"
    """MR without that rule."""
    ALIGNMENT = "alignment"
    """MA: a vector from the phrase, by a network that is trained on the head."""
    VLM = "vlm"
    """The base model, and where it says the target, the nearest sub-class text."""
    ONE_SHOT_ALIGNED = "one_shot_aligned"
    """Rows of MA, trained on a few clips per sub-class."""
    ONE_SHOT_COARSE = "one_shot_coarse"
    """The same from the target's own row."""
    ONE_SHOT_RANDOM = "one_shot_random"
    """The same from random rows."""
    ONE_SHOT_WHOLE_HEAD = "one_shot_whole_head"
    """From the target's own row, with all old rows trained too."""
    FULL_DATA = "full_data"
    """From the target's own row, on all train clips of the target."""

    @property
    def needs_train_clips(self) -> bool:
        """Whether it learns from clips of the sub-classes."""
        return self.startswith("one_shot") or self is SplitMethod.FULL_DATA

    @property
    def is_random(self) -> bool:
        """Whether seeds change its result."""
        return self is SplitMethod.ALIGNMENT or self.needs_train_clips


class SplitBenchmarkConfig(Config):
    """A benchmark over all split targets of a side."""

    methods: tuple[SplitMethod, ...] = ()
    """Not set: all for which the weights file has what they need."""
    seeds: tuple[int, ...] = Field(default=(0, 1, 3), min_length=1)
    """Of the methods that are random; the default is the authors' for their Table 2."""
    shots: int = Field(default=1, ge=1)
    """Train clips per sub-class of the one_shot methods."""
    retrieval: RetrievalConfig = RetrievalConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    low_shot: LowShotConfig = LowShotConfig()

    @field_validator("methods", "seeds")
    @classmethod
    def _distinct(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        if len(set(values)) != len(values):
            raise ValueError("names one twice; name each once")
        return values
