"""Model folder of a recipe: a local directory, or a Hugging Face hub model, downloaded if needed.

    model = "../models/mine"                   -> that directory
    model = "Qwen/Qwen2.5-VL-7B-Instruct"      -> local cache, else download -> its directory there

The driver resolves a name once, before any engine starts, and hands the directory on. On a cluster
every node needs it under the same path: set ``HF_HOME`` to a folder that all nodes share, or bring
the model to each node beforehand. ``HF_HUB_OFFLINE=1`` keeps to the cache. No code of a model
repository is ever fetched or run.
"""

import json
from pathlib import Path

from cluster.config.recipe import RunConfig
from video.families import family_of
from wire.config import is_hub_name
from wire.errors import ConfigError
from wire.http_faults import connection_in_words, status_in_words, status_of

_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
_NOT_FILES = ("*/*",)  # copies in other formats
_WEIGHTS = "model.safetensors"


def with_local_model(config: RunConfig) -> RunConfig:
    """The recipe with its model's directory on this machine. May download. Raises ConfigError."""
    return config.model_copy(update={"model": local_model(config.model)})


def with_cached_model(config: RunConfig) -> RunConfig:
    """The recipe with its model's directory if it is on this machine, in the hub's cache too; else
    the recipe unchanged. Downloads nothing."""
    if config.model.is_dir():
        return config
    return config.model_copy(update={"model": cached_model(config.model) or config.model})


def local_model(model: Path, cache_dir: Path | None = None) -> Path:
    """The directory of a model: the given one, or that of a hub model after its download.

    ``cache_dir``: Hugging Face's cache; none: the usual one. Raises ConfigError if there is no such
    model, the hub cannot be reached, or the model is of a kind that cannot be trained here (checked
    before its weights are downloaded).
    """
    if model.is_dir():
        return model
    name = str(model)
    if not is_hub_name(name):
        raise ConfigError(
            f"there is no model directory {model}; give 'model' as the path of one, or as a "
            "model of the Hugging Face hub such as Qwen/Qwen2.5-VL-7B-Instruct"
        )
    return cached_model(model, cache_dir) or _download(name, cache_dir)


def cached_model(model: Path, cache_dir: Path | None = None) -> Path | None:
    """Folder of a complete hub model in the local cache; None without one. No network."""
    name = str(model)
    if not is_hub_name(name):
        return None
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, cache_dir=cache_dir, local_files_only=True))
    except (OSError, ValueError):  # not in the cache, or no name that the hub could know
        return None
    return folder if _is_whole(folder) else None


def _download(name: str, cache_dir: Path | None) -> Path:
    from huggingface_hub import errors, hf_hub_download, snapshot_download

    client_error: type[Exception] = vars(errors)["HTTPError"]  # httpx's, or that of its successor
    try:
        family_of(Path(hf_hub_download(name, "config.json", cache_dir=cache_dir)).parent)
        folder = Path(
            snapshot_download(
                name,
                cache_dir=cache_dir,
                allow_patterns=list(_FILES),
                ignore_patterns=list(_NOT_FILES),
            )
        )
    except ConfigError as error:
        raise ConfigError(f"{name} on the Hugging Face hub: {error}") from error
    except (OSError, ValueError, client_error) as error:
        raise ConfigError(
            f"there is no directory {name}, and no model of that name came from the Hugging Face "
            f"hub: {_reason(name, error)}"
        ) from error
    if not _is_whole(folder):
        raise ConfigError(
            f"{name} of the Hugging Face hub lacks weights as safetensors, or they did not all "
            f"arrive in {folder}; give a directory with a whole model"
        )
    return folder


def _reason(name: str, error: BaseException) -> str:
    """The hub client's error of several lines, in a few words, and what to do."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{name}"
    login = "give a token that may read it (hf auth login, or HF_TOKEN)"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"it is gated, and you have no access; ask for it or accept its terms on {page}, then "
            f"{login}"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"it has none that you may read; mend the name, or, if it is private, {login}"
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, errors.OfflineModeIsEnabled):
        return (
            f"HF_HUB_OFFLINE is set, and the local cache does not hold it; unset it, or run 'hf "
            f"download {name}' where the hub can be reached"
        )
    if (status := status_of(error)) is not None:
        return status_in_words(status, login)
    if known := connection_in_words(error):
        return known
    lines = str(error).strip().splitlines()
    what = lines[0].rstrip(".") if lines else "no answer"
    return (
        f"{what} ({type(error).__name__}); mend the name, give a directory, or run "
        f"'hf download {name}' where the hub can be reached"
    )


def _is_whole(folder: Path) -> bool:
    """Whether a folder has configuration, tokenizer and every file of weights."""
    index = folder / f"{_WEIGHTS}.index.json"
    if index.is_file():
        try:
            weights = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError):
            return False
    else:
        weights = {_WEIGHTS}
    tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))
    return tokenizer and all((folder / name).is_file() for name in ("config.json", *weights))
