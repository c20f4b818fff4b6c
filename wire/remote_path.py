"""Path of an object in a store such as S3, used where a local path is: through fsspec.

    place_of("s3://bucket/runs/demo") -> RemotePath: open, glob, exists, stat, unlink, rename

An object appears whole when its file is closed, and is durable then. What only a local file can do
raises TypeError instead of acting on a local file of a like name. Needs the package of the store:
deepintuit[s3] for s3://.
"""

import fnmatch
import os
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache, wraps
from pathlib import Path, PosixPath
from typing import IO, Any, TypeVar, cast
from urllib.parse import urlsplit

from wire.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])
_BLOCK_BYTES = 1 << 20  # of a file that is read: footers are small, row groups large
_FORMATS = {"s3": "pip install 'deepintuit[s3]'"}


def place_of(text: str) -> Path:
    """The place that a text names: a local path, or an object's with a scheme."""
    return RemotePath(text) if "://" in text else Path(text)


def _named(act: F) -> F:
    """Turn what a store says of credentials and connections into a ConfigError."""

    @wraps(act)
    def named(path: "RemotePath", *arguments: Any, **options: Any) -> Any:
        try:
            return act(path, *arguments, **options)
        except (FileNotFoundError, FileExistsError, ConfigError):
            raise
        except Exception as error:
            kind = type(error)
            if isinstance(error, PermissionError) or "Credentials" in kind.__name__:
                raise ConfigError(
                    f"{path} is closed to you ({error}); give credentials such as AWS_PROFILE, or "
                    "FSSPEC_S3_ANON=1 for a public bucket"
                ) from error
            if kind.__module__.startswith(("botocore", "aiohttp", "aiobotocore")):
                raise ConfigError(
                    f"{path} cannot be reached: {error}; look at the address, AWS_ENDPOINT_URL and "
                    "the network"
                ) from error
            raise

    return cast(F, named)


class RemotePath(PosixPath):
    """Path of an object or of a folder of objects."""

    def __str__(self) -> str:
        scheme, *rest = self.parts
        return f"{scheme}//{'/'.join(rest)}"

    def __fspath__(self) -> str:
        raise TypeError(f"{self} is not on this machine; `deepintuit archive copy` brings it")

    def __repr__(self) -> str:
        return f"RemotePath('{self}')"

    @property
    def system(self) -> Any:
        """The file system of fsspec that it is in. Raises ConfigError."""
        return _system(urlsplit(str(self)).scheme)

    @property
    def key(self) -> str:
        """Name in that file system."""
        return "/".join(self.parts[1:])

    @_named
    def open(self, mode: str = "r", *_: Any, **__: Any) -> IO[Any]:  # type: ignore[override]
        """Open for reading or writing; what is written appears when the file is closed."""
        options = {"block_size": _BLOCK_BYTES} if mode == "rb" else {}
        file: IO[Any] = self.system.open(self.key, mode, **options)
        return file

    @_named
    def exists(self) -> bool:
        """Whether there is an object, or a folder with objects."""
        return bool(self.system.exists(self.key))

    @_named
    def is_dir(self) -> bool:
        """Whether there are objects below it."""
        return bool(self.system.isdir(self.key))

    @_named
    def is_file(self) -> bool:
        """Whether it is an object."""
        return bool(self.system.isfile(self.key))

    def glob(self, pattern: str) -> Generator["RemotePath", None, None]:
        """Objects directly in the folder whose names match."""
        try:
            names = [str(name).rstrip("/").rpartition("/")[2] for name in self._list()]
        except FileNotFoundError:
            return
        yield from (self / name for name in sorted(names) if fnmatch.fnmatchcase(name, pattern))

    @_named
    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Size and time of the last change. Raises FileNotFoundError."""
        about = self.system.info(self.key)
        changed = about.get("LastModified")
        seconds = changed.timestamp() if changed is not None else 0.0
        return os.stat_result((0o100644, 0, 0, 1, 0, 0, about["size"] or 0, 0, seconds, 0))

    @_named
    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object. Raises FileNotFoundError unless ``missing_ok``."""
        if missing_ok and not self.exists():
            return
        self.system.rm_file(self.key)

    @_named
    def rename(self, target: str | os.PathLike[str]) -> "RemotePath":
        """Copy the object within its store, and remove the first."""
        other = RemotePath(str(target))
        self.system.copy(self.key, other.key)
        self.system.rm_file(self.key)
        return other

    def mkdir(self, *_: Any, **__: Any) -> None:
        """Nothing to do: a folder is there when an object is."""

    @_named
    def read_text(self, *_: Any, **__: Any) -> str:
        """Content of an object. Raises FileNotFoundError."""
        content: bytes = self.system.cat_file(self.key)
        return content.decode()

    @_named
    def create(self, content: bytes) -> bool:
        """Make the object unless it is there; whether it was made here."""
        try:
            self.system.pipe_file(self.key, content, mode="create")
        except FileExistsError:
            return False
        return True

    @_named
    def _list(self) -> list[str]:
        names: list[str] = self.system.ls(self.key, detail=False)
        return names


def arrow_source(path: Path) -> Any:
    """What Arrow opens to read a file: the path, or an open file of a store."""
    return path.open("rb") if isinstance(path, RemotePath) else path


def arrow_dataset(paths: Sequence[Path]) -> Any:
    """Parquet files of one place as a dataset of Arrow."""
    import pyarrow.dataset as ds
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    first = paths[0]
    if not isinstance(first, RemotePath):
        return ds.dataset([str(path) for path in paths], format="parquet")
    keys = ["/".join(path.parts[1:]) for path in paths]
    return ds.dataset(keys, filesystem=PyFileSystem(FSSpecHandler(first.system)), format="parquet")


@lru_cache
def _system(scheme: str) -> Any:
    import fsspec

    try:
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise ConfigError(
            f"{scheme}:// needs a package that is not installed; {_FORMATS.get(scheme, error)}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{scheme}://: {error}; give a local path or s3://BUCKET/NAME") from error
