"""Semantic-token tokenizer: segments of a clip become codes, with names and embeddings.

    segments [T, S, H] -> encoder -> nearest code -> codes (T numbers)
                                                  -> names (texts)  or  embeddings [K, H]
                       -> soft [T, H]  (not quantised)

Two files, ``tokenizer.json`` and ``tokenizer.safetensors``, in a folder that is whole or absent.
Codes are computed in float64, clip by clip: the order of a sum, which the number of threads
decides, then cannot turn a code.
"""

import copy
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from video.semantic_tokens.codebook import Codebook
from video.semantic_tokens.config import SemanticTokensConfig
from video.semantic_tokens.description import (
    DESCRIPTION_NAME,
    WEIGHTS_NAME,
    TokenizerDescription,
)
from video.semantic_tokens.segment_encoder import SegmentDecoder, SegmentEncoder, check_segments
from wire.disk import naming_full_disk
from wire.errors import DataError
from wire.whole_file import write_json


class TokenizerNetwork(nn.Module):
    """The network of a tokenizer: encoder, codebook, decoder."""

    def __init__(self, places: int, width: int, config: SemanticTokensConfig) -> None:
        super().__init__()
        self.encoder = SegmentEncoder(places, width, config)
        self.codebook = Codebook(config)
        self.decoder = SegmentDecoder(places, width, config)

    def encode(self, segments: Tensor) -> Tensor:
        """Unit vectors of one clip's segments: ``[T, S, H] -> [T, D]``."""
        everywhere = torch.ones(1, len(segments), dtype=torch.bool)
        vectors: Tensor = self.encoder(self.encoder.standardise(segments)[None], everywhere)[0]
        return vectors


class SemanticTokenizer:
    """A fitted tokenizer. It never changes, and its version names it."""

    def __init__(
        self, network: TokenizerNetwork, embeddings: Tensor, description: TokenizerDescription
    ) -> None:
        """``embeddings`` [K, H]: one per code. The version of ``description`` is computed here."""
        network = copy.deepcopy(network).float().cpu().eval()
        self._tensors: dict[str, Tensor] = {
            name: x.detach().contiguous().clone() for name, x in network.state_dict().items()
        }
        self._tensors["embeddings"] = embeddings.detach().float().cpu().contiguous().clone()
        version = _version(self._tensors, description)
        self.description = replace(description, version=version)
        self._network = network.double().requires_grad_(False)

    @property
    def version(self) -> str:
        """Hash of weights and description, 12 hex digits."""
        return self.description.version

    @property
    def tower(self) -> str:
        """Hash of the tower whose features it reads."""
        return self.description.tower

    @property
    def config(self) -> SemanticTokensConfig:
        """Settings that it was fitted with."""
        return self.description.config

    @property
    def names(self) -> tuple[str, ...]:
        """Per code: the text nearest to it."""
        return self.description.names

    @property
    def embeddings(self) -> Tensor:
        """Embeddings ``[K, H]``, float32: per code the mean of the tower's features, over places
        and training segments, that have it; it lives where the tower's features live, in the
        language model's input space."""
        return self._tensors["embeddings"]

    @torch.no_grad()
    def codes(self, segments: Tensor) -> tuple[int, ...]:
        """Codes of a clip's segments ``[T, S, H]``, one per segment. Raises DataError if they are
        of another size."""
        return tuple(self._network.codebook.nearest(self._vectors(segments)).tolist())

    def soft(self, segments: Tensor) -> Tensor:
        """Unquantised counterpart of a clip's embeddings: ``[T, S, H] -> [T, H]``, float32.

        An embedding is the mean, over all segments with its code, of what this is of one: the mean
        of a segment's features over its places. Between the two lies nothing but the codebook.
        """
        check_segments(segments, self.description.places, self.description.width)
        return segments.detach().cpu().float().mean(1)

    def _vectors(self, segments: Tensor) -> Tensor:
        check_segments(segments, self.description.places, self.description.width)
        return self._network.encode(segments.detach().cpu().double())

    def save(self, folder: Path) -> None:
        """Write the two files to a folder, which appears whole, by rename. Raises DiskFull."""
        from safetensors.torch import save

        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with naming_full_disk(partial):
            # save_file would make a file that no other user may read
            (partial / WEIGHTS_NAME).write_bytes(save(self._tensors, metadata={"format": "pt"}))
            write_json(partial / DESCRIPTION_NAME, self.description.to_json())
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)

    @classmethod
    def load(cls, folder: Path, *, tower: str | None = None) -> "SemanticTokenizer":
        """Read a tokenizer. ``tower``: hash of the model's; another one than the tokenizer's is
        refused. Raises DataError if files are missing or are not as they were written."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        description = TokenizerDescription.read(folder)
        if tower is not None:
            description.check_tower(tower)
        network = TokenizerNetwork(description.places, description.width, description.config)
        try:
            tensors = load_file(folder / WEIGHTS_NAME)
            embeddings = tensors.pop("embeddings")
            network.load_state_dict(tensors)
        except (OSError, SafetensorError, RuntimeError, KeyError) as error:
            raise DataError(
                f"the weights of the tokenizer in {folder} cannot be read: {error}; run its "
                "semantic_tokens stage again"
            ) from error
        tokenizer = cls(network, embeddings, description)
        if tokenizer.version != description.version:
            raise DataError(
                f"the tokenizer in {folder} has the content {tokenizer.version} and calls itself "
                f"{description.version}: it was changed; run its semantic_tokens stage again"
            )
        return tokenizer


def _version(tensors: Mapping[str, Tensor], description: TokenizerDescription) -> str:
    values = {key: value for key, value in description.to_json().items() if key != "version"}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]
