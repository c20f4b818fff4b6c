"""Options of an import, as a plain value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from rollout.importers.join import OnConflict
from wire.types import Split


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """Options of an import, as the user gave them.

    Example:
        ImportOptions(sources=("train=labels.json", "test=test.json"), manifest=Path("m.jsonl"))
    """

    sources: tuple[str, ...]
    """Files, folders and URLs, each ``ADDRESS`` or ``SPLIT=ADDRESS``; a file that defines labels
    among them says what the labels are."""
    manifest: Path
    format: str | None = None
    """None: recognised, for each source by itself."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Name to be -> name in the source."""
    media_root: str | Path | None = None
    """Folder or URL of the videos; none: beside source or manifest, or in the working folder."""
    download: Path | None = None
    """Folder for what is fetched; none: MANIFEST-media beside the manifest."""
    timeout_s: float = 60.0
    """How long a place elsewhere may be silent."""
    split: Split | None = None
    """Split of sources that name none."""
    ratio: Mapping[Split, float] | None = None
    """Divides the clips of sources that name no split."""
    divide: Split | None = None
    """A split of the sources that ``ratio`` divides too."""
    group_by: str | None = None
    """A column: clips with one value of it stay together."""
    seed: int = 0
    label_names: Path | None = None
    """Names of labels that are numbers in the source."""
    windows: bool = False
    """The videos are untrimmed: the sources' times become ``start_s`` and ``end_s``."""
    on_conflict: OnConflict = "error"
    skip_missing: bool = False
    with_side_text: bool = False
    drop_hinted_traces: bool = False
    convert_frames: bool = False
    fps: Fraction = Fraction(1)
    """Frames per second of the videos made of zips."""
    labels_out: Path | None = None
    overwrite: bool = False
