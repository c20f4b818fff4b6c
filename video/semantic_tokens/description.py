"""Description of a tokenizer, ``tokenizer.json``: all of it but the weights, read without torch.

tokenizer.json -> TokenizerDescription -> names, version, tower: what a narrative needs
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from video.semantic_tokens.config import SemanticTokensConfig
from wire.errors import DataError

DESCRIPTION_NAME, WEIGHTS_NAME = "tokenizer.json", "tokenizer.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerDescription:
    """Description of a fitted tokenizer.

    Example:
        TokenizerDescription(version="0f3a9c0155de", tower="9b1...", places=4, width=3584,
                             names=("left", "grow"), nearest=(("left", "up"), ("grow", "up")),
                             config=SemanticTokensConfig(num_codes=2))
    """

    version: str
    """12 hex digits of the hash of weights and description."""
    tower: str
    """Hash of the frozen tower whose features it reads."""
    places: int
    """Places of a segment: config.spatial squared."""
    width: int
    """Width of the tower's features."""
    names: tuple[str, ...]
    """Per code: the text that is nearest to it."""
    nearest: tuple[tuple[str, ...], ...]
    """Per code: the texts nearest to it, the nearest first."""
    config: SemanticTokensConfig

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.nearest) == self.config.num_codes:
            raise ValueError(
                f"{len(self.names)} names and {len(self.nearest)} lists of nearest texts for "
                f"num_codes={self.config.num_codes}; expected one of each per code"
            )

    @classmethod
    def read(cls, folder: Path) -> "TokenizerDescription":
        """Read the description in a tokenizer's folder. Raises DataError."""
        path = folder / DESCRIPTION_NAME
        try:
            return _ADAPTER.validate_json(path.read_bytes())
        except OSError as error:
            raise DataError(
                f"no tokenizer in {folder}: cannot read {path.name} ({error.strerror}); give the "
                "folder that a semantic_tokens stage wrote (stages/NAME/tokenizer)"
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            raise DataError(
                f"{path} is no description of a tokenizer: {first['msg']} at "
                f"{'.'.join(map(str, first['loc'])) or 'its top'}; run its semantic_tokens stage "
                "again"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Values of the file."""
        values: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return values

    def check_tower(self, tower: str) -> None:
        """Raise DataError if the tokenizer was fitted on another tower's features."""
        if tower != self.tower:
            raise DataError(
                f"the tokenizer {self.version} belongs to the tower {self.tower[:12]}, and this "
                f"model's is {tower[:12]}: its codes would mean nothing here; use the model that "
                "it was fitted on, with a frozen tower, or fit one for this model"
            )


_ADAPTER = TypeAdapter(TokenizerDescription)
