"""Files of other machines -> files of a folder here, each fetched once.

    URL -> NAME-HASH.part (fsspec) -> size as announced? -> NAME-HASH -> a line in fetched.jsonl

A file is whole or not there. Interrupted, the same import goes on: what ``fetched.jsonl`` lists
with the size the file still has is not fetched again.
"""

import hashlib
import json
import os
import queue
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from rollout.importers.rows import is_video
from wire.errors import ConfigError, DataError
from wire.http_faults import connection_in_words, may_pass, status_in_words, status_of
from wire.whole_file import whole_file

_THREADS = 8
_TRIES = 3
_BUSY = (429, 503)
_WAIT_S = 1.0  # for a busy place, twice as long the second time; longer if it says so
_MAX_WAIT_S = 60.0
_LOGIN = (
    "give an address that needs no login, such as a signed one that has not run out; for the "
    "Hugging Face hub hf://datasets/OWNER/NAME/FILE, after hf auth login and with its terms "
    "accepted; or download it yourself and give --media-root"
)
_PAGES = (b"<!doctype html", b"<html")
_INDEX = "fetched.jsonl"
_PACKAGES = {"s3": "pip install 'deepintuit[s3]'", "s3a": "pip install 'deepintuit[s3]'"}

Progress = Callable[[int, int], None]
"""Called with the files that are here, and all that are wanted."""


class MediaStore:
    """A folder for files that came from elsewhere; made when the first one comes."""

    def __init__(self, folder: Path, timeout_s: float = 60.0) -> None:
        self.folder = folder
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._sizes: dict[str, int] | None = None

    def fetch(self, url: str, again: bool = False) -> Path:
        """The file of a URL, fetched unless it is here; ``again``: even then.

        Raises FileNotFoundError if there is none, DataError if it cannot be fetched.
        """
        path = self.folder / _file_name(url)
        with self._lock:
            known = self._index().get(path.name)
        if not again and known is not None and path.is_file() and path.stat().st_size == known:
            return path
        system, inner = self._open(url)
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path, suffix=f".{os.getpid()}.part") as partial:
            size = self._copy(url, system, inner, partial)
        self._note(url, path, size)
        return path

    def fetch_all(
        self, urls: Iterable[str], progress: Progress | None = None
    ) -> tuple[dict[str, Path], dict[str, str]]:
        """Several at a time. Returns the files, and for each URL without one the reason."""
        wanted = list(dict.fromkeys(urls))
        made: dict[str, Path] = {}
        faults: dict[str, str] = {}
        for count, (url, outcome) in enumerate(self._each(wanted), start=1):
            if isinstance(outcome, Path):
                made[url] = outcome
            elif isinstance(outcome, FileNotFoundError):
                faults[url] = f"{url} does not exist"
            elif isinstance(outcome, DataError):
                faults[url] = str(outcome)
            else:
                raise outcome
            if progress:
                progress(count, len(wanted))
        return made, faults

    def _each(self, urls: Iterable[str]) -> Iterator[tuple[str, Path | Exception]]:
        """URLs and what came of them, as they end. The threads are daemons: an interrupt waits for
        no place that is silent, and its half files are removed."""
        todo: queue.SimpleQueue[str] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[str, Path | Exception]] = queue.SimpleQueue()
        wanted = list(urls)
        for url in wanted:
            todo.put(url)

        def work() -> None:
            while not (self._ended.is_set() or todo.empty()):
                with suppress(queue.Empty):
                    url = todo.get_nowait()
                    try:
                        done.put((url, self.fetch(url)))
                    except Exception as error:  # noqa: BLE001  (raised again by who asked)
                        done.put((url, error))

        for number in range(min(_THREADS, len(wanted))):
            threading.Thread(target=work, name=f"fetch-{number}", daemon=True).start()
        try:
            for _ in wanted:
                yield done.get()
        except BaseException:
            self._ended.set()
            for partial in self.folder.glob(f"*.{os.getpid()}.part"):
                partial.unlink(missing_ok=True)
            raise

    def keep(self, data: bytes, name: str) -> Path:
        """A file of these bytes, named by them. ``name``: for its suffix."""
        suffix = _safe(PurePosixPath(name).suffix) or ".mp4"
        path = self.folder / f"{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
        if not path.is_file() or path.stat().st_size != len(data):
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(path, suffix=f".{os.getpid()}.part") as partial:
                partial.write_bytes(data)
        return path

    def listing(self, url: str) -> list[str] | None:
        """The files under a URL, relative to it, sorted; None if it is a file itself.

        Raises FileNotFoundError if there is nothing, DataError if it cannot be listed.
        """
        system, inner = self._open(url)
        try:
            if not self.can_list(url) or system.isfile(inner):
                return None
            top = inner.rstrip("/") + "/"
            names = [str(name).removeprefix(top) for name in system.find(inner)]
        except FileNotFoundError:
            raise
        except _failures() as error:
            raise DataError(_reason(url, error, self._timeout_s)) from error
        if not names:
            raise FileNotFoundError(url)
        return sorted(names)

    def can_list(self, url: str) -> bool:
        """Whether the folders of a place can be listed; those of a web server cannot."""
        return urlsplit(url).scheme.lower() not in ("http", "https")

    def exists(self, url: str) -> bool:
        """Whether a web server has a file. Raises DataError if it does not answer."""
        import httpx

        try:
            answer = httpx.head(url, follow_redirects=True, timeout=self._timeout_s)
        except httpx.HTTPError as error:
            raise DataError(_reason(url, error, self._timeout_s)) from error
        return answer.status_code not in (404, 410)  # others: fetching it says what is wrong

    def _copy(self, url: str, system: Any, inner: str, partial: Path) -> int:
        """Returns the size. Tries again what may pass: all but a file that is not there."""
        for left in reversed(range(_TRIES)):
            try:
                # a web server's is compared as it arrives; asking would hide why it is closed
                announced = system.info(inner).get("size") if self.can_list(url) else None
                system.get_file(inner, str(partial))
                size = partial.stat().st_size
                if announced is not None and size != announced:
                    raise OSError(f"got {size} bytes of {announced}")
                _refuse_page(url, partial)
                return size
            except FileNotFoundError:
                raise
            except PermissionError as error:
                raise DataError(_reason(url, error, self._timeout_s)) from error
            except _failures() as error:
                status = status_of(error)
                is_final = status is not None and not may_pass(status)
                if is_final or not left or self._ended.is_set():
                    raise DataError(_reason(url, error, self._timeout_s)) from error
                if status in _BUSY:
                    self._ended.wait(_wait_s(error, _TRIES - left))
        raise AssertionError("the last try returns or raises")

    def _open(self, url: str) -> tuple[Any, str]:
        import fsspec

        scheme = urlsplit(url).scheme.lower()
        try:
            system, inner = fsspec.core.url_to_fs(url, **_options(scheme, self._timeout_s))
        except ImportError as error:
            remedy = _PACKAGES.get(scheme, str(error))
            raise ConfigError(
                f"{url} needs a package for {scheme}:// that is not installed; {remedy}"
            ) from error
        except ValueError as error:
            raise ConfigError(
                f"{url}: {error}; expected file://, s3://, https:// or another of fsspec's"
            ) from error
        return system, inner

    def _index(self) -> dict[str, int]:
        """File name -> size when it was fetched."""
        if self._sizes is None:
            self._sizes = {}
            index = self.folder / _INDEX
            for line in index.read_text().splitlines() if index.is_file() else []:
                try:
                    entry = json.loads(line)
                    self._sizes[entry["name"]] = entry["size"]
                except (ValueError, KeyError):  # a line cut by a crash: its file is fetched again
                    continue
        return self._sizes

    def _note(self, url: str, path: Path, size: int) -> None:
        with self._lock, (self.folder / _INDEX).open("a") as file:
            self._index()[path.name] = size
            plain = urlsplit(url)._replace(query="").geturl()  # a query may be a signature
            file.write(json.dumps({"name": path.name, "size": size, "url": plain}) + "\n")


def _options(scheme: str, timeout_s: float) -> dict[str, Any]:
    """Deadlines, in each file system's own words. Silence counts, not the whole download."""
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
        # identity: the announced size is then that of what arrives
        return {
            "client_kwargs": {"timeout": timeout, "trust_env": True},  # HTTPS_PROXY, as httpx
            "headers": {"Accept-Encoding": "identity"},
        }
    if scheme in ("s3", "s3a"):
        waits = {"connect_timeout": timeout_s, "read_timeout": timeout_s}
        return {"config_kwargs": {**waits, "retries": {"max_attempts": 1}}}
    return {}


def _failures() -> tuple[type[Exception], ...]:
    """Exceptions of the file systems when a place does not answer as it should."""
    import aiohttp
    from fsspec.exceptions import FSTimeoutError

    failures: list[type[Exception]] = [OSError, TimeoutError, FSTimeoutError, aiohttp.ClientError]
    try:
        from botocore.exceptions import BotoCoreError
    except ImportError:
        return tuple(failures)
    return (*failures, BotoCoreError)


def _reason(url: str, error: Exception, timeout_s: float) -> str:
    from fsspec.exceptions import FSTimeoutError

    if isinstance(error, TimeoutError | FSTimeoutError) or "imeout" in type(error).__name__:
        return f"{url} sent nothing for {timeout_s:g} s; try again, or give a longer --timeout"
    if "Credentials" in type(error).__name__ or isinstance(error, PermissionError):
        return (
            f"{url} is closed to you ({error}); give credentials such as AWS_PROFILE, or "
            "FSSPEC_S3_ANON=1 for a public bucket"
        )
    if (status := status_of(error)) is not None:
        return f"{url} cannot be fetched: {status_in_words(status, _LOGIN)}"
    return f"{url} cannot be fetched: {connection_in_words(error) or error or type(error).__name__}"


def _wait_s(error: BaseException, number: int) -> float:
    """Seconds to wait for a busy place: what it asks for, else more each time."""
    headers = getattr(error, "headers", None) or {}
    asked = str(headers.get("Retry-After", ""))
    return min(float(asked) if asked.isdecimal() else _WAIT_S * 2 ** (number - 1), _MAX_WAIT_S)


def _refuse_page(url: str, path: Path) -> None:
    """Raise DataError if what came for a video is a web page: a login, or a page about the file."""
    with path.open("rb") as file:
        begin = file.read(512).lstrip().lower()
    if is_video(urlsplit(url).path) and begin.startswith(_PAGES):
        raise DataError(
            f"{url} is a web page, not a video; give the address of the file itself (on the "
            "Hugging Face hub /resolve/ instead of /blob/), or download it and give --media-root"
        )


def _file_name(url: str) -> str:
    """The end of a URL's path and a hash of the whole, so that two never share a name."""
    path = PurePosixPath(urlsplit(url).path)
    stem = _safe(path.stem)[:60] or "file"
    return f"{stem}-{hashlib.sha256(url.encode()).hexdigest()[:12]}{_safe(path.suffix)}"


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)
