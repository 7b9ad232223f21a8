"""A real headless Chromium for tests of pages: `with page(1280, 800) as (tab, trouble): tab.goto(...)`.

Needs the `chromium` command and the Python package `playwright`; where one is missing the test is skipped and says so.
"""

import atexit
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# WebGL in software, as on a server without a graphics card, and no traffic of its own
ARGUMENTS = (
    "--no-sandbox --use-angle=swiftshader --enable-unsafe-swiftshader --ignore-gpu-blocklist "
    "--disable-background-networking --disable-component-update --disable-sync --no-first-run"
).split()
LOCAL = ("127.0.0.1", "localhost", "[::1]")
RULES = "--host-resolver-rules=MAP * ~NOTFOUND" + "".join(f", EXCLUDE {host}" for host in LOCAL)


@contextmanager
def page(width: int = 1280, height: int = 800, scale: float = 1.0) -> Iterator[tuple[Any, list[str]]]:
    """A fresh tab (playwright's `Page`) of width x height CSS pixels, and the list in which its trouble gathers.

    Trouble: console errors and warnings, exceptions of the page's scripts, requests that failed or were answered with
    400 or more, and anything asked of another machine than this one (which is also blocked). `scale`: screen pixels a
    CSS pixel. Skips the test where Chromium or playwright is not installed.
    """
    context = browser().new_context(viewport={"width": width, "height": height}, device_scale_factor=scale)
    try:
        tab = context.new_page()
        trouble: list[str] = []
        _watch(tab, trouble)
        yield tab, trouble
    finally:
        context.close()


@cache
def browser() -> Any:
    """Started once a process; tabs of different contexts know nothing of one another."""
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip("Chromium is not installed (sudo apt-get install -y chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    playwright = sync_api.sync_playwright().start()
    atexit.register(playwright.stop)
    return playwright.chromium.launch(executable_path=executable, args=[*ARGUMENTS, RULES])


def _watch(tab: Any, trouble: list[str]) -> None:
    def said(message: Any) -> None:
        # what software WebGL says of its own speed when a test reads pixels back
        if message.type in ("error", "warning") and "GPU stall due to ReadPixels" not in message.text:
            trouble.append(f"console {message.type}: {message.text}")

    def asked(request: Any) -> None:
        scheme, _, rest = request.url.partition("://")
        if scheme in ("http", "https", "ws", "wss") and not rest.startswith(LOCAL):
            trouble.append(f"asks another machine: {request.url}")

    def failed(request: Any) -> None:
        if "ERR_ABORTED" not in (request.failure or ""):  # a page may change its mind
            trouble.append(f"request failed: {request.url} ({request.failure})")

    def answered(response: Any) -> None:
        if response.status >= 400:
            trouble.append(f"answer {response.status}: {response.url}")

    tab.on("console", said)
    tab.on("pageerror", lambda error: trouble.append(f"exception: {error}"))
    tab.on("requestfailed", failed)
    tab.on("response", answered)
    tab.on("request", asked)


def until(tab: Any, expression: str, seconds: float = 20.0) -> Any:
    """Waits until a JavaScript expression is true, and returns its value.

    playwright's own wait_for_function needs eval, which a page's Content-Security-Policy may forbid.
    """
    end = time.monotonic() + seconds
    while not (value := tab.evaluate(expression)):
        assert time.monotonic() < end, f"still not so after {seconds} s: {expression}"
        tab.wait_for_timeout(20)
    return value
