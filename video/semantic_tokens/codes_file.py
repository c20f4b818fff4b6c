"""Codes of all clips of a manifest in one file, by clip key; read without torch.

(clip key, codes) ... -> write_codes -> a header line, a JSON line per clip; whole or absent
                         CodesFile.read -> .codes("clip key")
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wire.disk import naming_full_disk
from wire.errors import DataError
from wire.whole_file import whole_file


def write_codes(
    path: Path, version: str, num_codes: int, clips: Iterable[tuple[str, Sequence[int]]]
) -> int:
    """Write the codes of clips, in order; a clip that comes again is written once. ``version``: the
    tokenizer's. Returns the number of clips."""
    seen: set[str] = set()
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        naming_full_disk(path.parent),
        whole_file(path) as partial,
        partial.open("w", encoding="utf-8") as file,
    ):
        file.write(json.dumps({"tokenizer": version, "num_codes": num_codes}) + "\n")
        for clip, codes in clips:
            if clip in seen:
                continue
            seen.add(clip)
            file.write(json.dumps([clip, *map(int, codes)], separators=(",", ":")) + "\n")
        file.write(json.dumps({"clips": len(seen)}) + "\n")
    return len(seen)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodesFile:
    """Codes of clips, as one tokenizer gave them."""

    path: Path
    version: str
    """The tokenizer's."""
    num_codes: int
    clips: Mapping[str, tuple[int, ...]]
    """Per clip key: one code per segment."""

    @classmethod
    def read(cls, path: Path, *, version: str | None = None) -> "CodesFile":
        """Read a file of codes. ``version``: the only tokenizer whose codes are wanted. Raises
        DataError."""
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            header, *rows, footer = lines
            clips = {str(row[0]): tuple(row[1:]) for row in rows}
            codes = cls(
                path=path,
                version=header["tokenizer"],
                num_codes=header["num_codes"],
                clips=clips,
            )
            whole = footer["clips"] == len(clips)
        except OSError as error:
            raise DataError(
                f"cannot read the codes of the clips: {path}: {error.strerror}; run the "
                "semantic_tokens stage again"
            ) from error
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"{path} is no file of codes ({error}); run the semantic_tokens stage again"
            ) from error
        if not whole:
            raise DataError(f"{path} is cut; run the semantic_tokens stage again")
        if version is not None and codes.version != version:
            raise DataError(
                f"{path} has codes of the tokenizer {codes.version}, expected {version}; run the "
                "semantic_tokens stage again"
            )
        return codes

    def codes(self, clip_key: str) -> tuple[int, ...]:
        """Codes of a clip. Raises DataError if it has none."""
        try:
            return self.clips[clip_key]
        except KeyError:
            raise DataError(
                f"the clip {clip_key} has no codes in {self.path}, which holds {len(self.clips)} "
                "clips of its manifest: it is another clip, or another window, sampling or "
                "processor of it; run the semantic_tokens stage on this manifest"
            ) from None
