from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.calibrate.service.running import Running
from tests.calibrate.service.web.pages import OpenedPage, launched, open_page, page_service


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    with page_service(tmp_path) as service:
        yield service


@pytest.fixture
def opened(browser: Any, service: Running) -> Iterator[OpenedPage]:
    """A tab; afterwards nothing may have been logged, or asked for elsewhere."""
    with open_page(browser, service) as opened:
        yield opened
        assert opened.logged == []
        assert opened.asked_elsewhere() == []
