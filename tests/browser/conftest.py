"""Fixtures for the tests in a browser: one JupyterLab and one chromium for all of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .server import LabServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import BrowserContext

    from .page import LabPage

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    # Whatever the browser wants to know of the world: there is none.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    """Debian's chromium with a fresh profile."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing: `apt-get install chromium` brings it (.ci/run does)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("chromium"),
            executable_path=CHROMIUM,
            args=ARGUMENTS,
            viewport={"width": 1280, "height": 1800},
        )
        yield context
        context.close()


@pytest.fixture(scope="module")
def server(browser: BrowserContext, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """A running JupyterLab; a test that leaves a process behind fails when it ends."""
    server = LabServer.start(tmp_path_factory.mktemp("lab"))
    yield server
    server.stop()


@pytest.fixture
def open_notebook(
    server: LabServer, browser: BrowserContext, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., LabPage]]:
    """Open a notebook with these cells in a page of its own; how the page looked at the end is in `end.png`."""
    from .page import LabPage

    opened: list[LabPage] = []

    def open_notebook(*cells: str) -> LabPage:
        name = re.sub(r"\W+", "-", request.node.name) + ".ipynb"
        server.write_notebook(name, *cells)
        opened.append(LabPage.open(server, browser, name))
        return opened[-1]

    yield open_notebook
    for page in opened:
        page.screenshot(tmp_path / "end.png")
        page.page.close()
    server.end_sessions()
