"""A LoRA adapter in peft's own format: as files, and on its way to the engines.

    tensors + config -> AdapterFiles -> a folder that peft and vLLM open
                                     -> (another process) check -> files -> vLLM

An adapter is small: it travels whole, in one piece, with one checksum.
"""

import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wire.disk import naming_full_disk
from wire.errors import WeightUpdateError

if TYPE_CHECKING:
    import torch

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFiles:
    """The two files of an adapter.

    Example:
        AdapterFiles(config=b'{"r": 16, ...}', weights=b"...", checksum=0x5f3a9c01)
    """

    config: bytes
    weights: bytes
    checksum: int
    """crc32 of both files."""

    @classmethod
    def of(cls, config: str, tensors: "Mapping[str, torch.Tensor]") -> "AdapterFiles":
        """Adapter files of contiguous tensors on the CPU, by peft's names."""
        from safetensors.torch import save

        text, weights = config.encode(), save(dict(tensors), metadata={"format": "pt"})
        return cls(config=text, weights=weights, checksum=_checksum(text, weights))

    @property
    def num_bytes(self) -> int:
        """Size on the wire."""
        return len(self.config) + len(self.weights)

    def check(self) -> None:
        """Raise WeightUpdateError if the bytes are not those that were sent."""
        checksum = _checksum(self.config, self.weights)
        if checksum != self.checksum:
            raise WeightUpdateError(
                f"the adapter arrived damaged: checksum {checksum:08x}, "
                f"sent with {self.checksum:08x}"
            )

    def write(self, folder: Path) -> None:
        """Write the files to a folder, which appears whole, by rename. Raises DiskFull."""
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with naming_full_disk(partial):
            (partial / CONFIG_NAME).write_bytes(self.config)
            (partial / WEIGHTS_NAME).write_bytes(self.weights)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


def _checksum(config: bytes, weights: bytes) -> int:
    return zlib.crc32(weights, zlib.crc32(config))
