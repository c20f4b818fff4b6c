"""The service's page in a headless browser, and a service for it to talk to. (No test file.)

with page_service(tmp_path) as service, open_page(browser, service) as opened:
    opened.go("#/traces")
    opened.page.click("text=More")
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calibrate.decision import Evidence
from calibrate.service.caller import SCOPES
from calibrate.service.protocols import ClipInspector, ClipToClassify
from calibrate.service.service import Service
from cluster.serving.traces import ArchiveTraces
from tests.calibrate.service.fakes import (
    ScriptedBackend,
    ScriptedClassifier,
    publish_tiny,
    tiny_png,
)
from tests.calibrate.service.running import AnyInspector, Running, make_config, make_parts, running
from tests.cluster.trace_archives import make_groups, write_archive
from tests.groups import make_completion, make_group, make_sample
from wire.types import Failure, Prompt, Score, Trace

HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
    "<svg onload=window.hacked=3> \u2028 ${alert(1)} <!-- <think>"
)
LONG_WORD = "Donaudampfschifffahrtsgesellschaft" * 4
CONTRARY = f"<think>It stops.</think> <answer>{LONG_WORD}</answer>"
HOSTILE_NAME = "<img src=x onerror=window.hacked=4>.mp4"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class OpenedPage:
    """A page, with everything that it logged or asked for."""

    def __init__(self, page: Any, service: Running, secret: str) -> None:
        self.page, self._service, self._secret = page, service, secret
        self.logged: list[str] = []
        self.asked: list[str] = []
        page.set_default_timeout(10_000)
        page.on("console", lambda message: self.logged.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.logged.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def enter(self, place: str = "") -> Any:
        """Open the page with a token in its address, at a place."""
        self.page.goto(f"{self._service.url}/#token={self._secret}")
        self.page.wait_for_selector(".shell")
        return self.go(place) if place else self.page

    def go(self, place: str) -> Any:
        """Go to a place of the page, such as ``traces``."""
        self.page.evaluate("place => { location.hash = `#/${place}` }", place)
        return self.page

    def count(self, selector: str, number: int) -> None:
        """Wait until there are so many elements. (The page's own rules forbid playwright's
        wait_for_function, which makes code of text.)"""
        from playwright.sync_api import expect

        expect(self.page.locator(selector)).to_have_count(number, timeout=10_000)

    def settle(self) -> None:
        """Wait until a place has all that it asked for."""
        self.page.wait_for_selector("main h1")
        self.count("main [aria-busy]", 0)

    def asked_elsewhere(self) -> list[str]:
        """Requests to anything but the service."""
        own = (self._service.url, "blob:" + self._service.url, "data:")
        return [url for url in self.asked if not url.startswith(own)]


class _PageClassifier:
    """A scripted classifier, some of whose traces are markup, or answer otherwise than it does."""

    def __init__(self, scripted: ScriptedClassifier) -> None:
        self._scripted = scripted
        self.close = scripted.close

    async def evidence(self, clip: ClipToClassify, view: str | None = None) -> Evidence | Failure:
        evidence = await self._scripted.evidence(clip, view)
        if isinstance(evidence, Failure):
            return evidence
        content = clip.path.read_bytes()
        if b"contrary" in content:
            return replace(
                evidence, trace=CONTRARY, votes={"normal": 1, "abnormal": 0, LONG_WORD: 3}
            )
        return replace(evidence, trace=HOSTILE) if b"hostile" in content else evidence


class PageBackend:
    """Backend of scripted classifiers; of a clip with the word hostile or contrary,
    the trace is so."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self._scripted = ScriptedBackend(delay_s=delay_s)

    async def open(self, directory: Path) -> _PageClassifier:
        return _PageClassifier(await self._scripted.open(directory))

    async def close(self) -> None:
        await self._scripted.close()


class PageInspector(AnyInspector):
    """Inspector for which every file is the same clip, with grey frames."""

    async def frames(self, path: Path, numbers: Sequence[int]) -> list[bytes]:
        return [tiny_png(number % 256) for number in numbers]


@contextmanager
def page_service(
    folder: Path,
    *,
    classifiers: int = 2,
    delay_s: float = 0.0,
    watched: bool = True,
    inspector: ClipInspector | None = None,
    **settings: Any,
) -> Iterator[Running]:
    """A service with classifiers, the first of which is champion, and an archive ``demo``.
    ``watched``: for shift, of which a few unparsed traces are one."""
    groups = [*make_groups(40), _hostile_group()]
    write_archive(folder / "run", groups)

    def prepare(service: Service) -> None:
        for number in range(1, classifiers + 1):
            tiny = publish_tiny(folder / f"published-{number}", f"tiny-{number}", reference=watched)
            service.registry.register(tiny.path, source="a test", by="a test")
        if classifiers:
            service.registry.promote(1, by="a test", expected_champion=None, reason="first")
        if classifiers > 1:
            service.registry.set_challenger(2, by="a test")

    config = make_config(
        folder,
        **{
            "max_loaded": 2,
            "archives": {"demo": folder / "run"},
            "audit_share": 0.0,
            "double_blind_share": 0.0,
            **settings,
        },
    )
    parts = make_parts(
        backend=PageBackend(delay_s),
        inspector=inspector or PageInspector(),
        traces=ArchiveTraces({"demo": folder / "run"}),
    )
    with running(config, parts, prepare) as service:
        yield service


@contextmanager
def launched() -> Iterator[Any]:
    """A headless browser; skips where there is none."""
    from playwright.sync_api import sync_playwright

    path = next((known for name in _NAMES if (known := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"needs a browser; none of {', '.join(_NAMES)} is installed")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=_ARGS)
        yield started
        started.close()


@contextmanager
def open_page(
    browser: Any, service: Running, *, width: int = 1280, scheme: str = "light"
) -> Iterator[OpenedPage]:
    """A fresh tab."""
    secret = service.service.tokens.create("a person", SCOPES, by="a test")
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    yield OpenedPage(context.new_page(), service, secret)
    context.close()


def _hostile_group() -> Any:
    trace = Trace(
        completion=make_completion(HOSTILE, num_tokens=4),
        outcome=Score(total=0.5, parts={"accuracy": 0.5}),
    )
    return make_group(
        trace,
        group_id=f"grpo/train/{HOSTILE_NAME}",
        sample=make_sample("undo", id=HOSTILE_NAME),
        prompt=Prompt(token_ids=(1, 2, 3), clip_key="k", fingerprint="f" * 16, version="1"),
    )
