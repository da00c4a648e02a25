"""A real browser: Chromium without a window, on a page that a test wrote and that says what it shows."""

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from running import PATIENCE_S

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt install chromium")

_ALONE = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"),
)
# What the page shows, and the state of every EventSource that it ever had, ten times a second.
_PAGE = """<!doctype html><meta charset="utf-8"><title>Responses Gateway</title><pre id="output"></pre><script>
const GIVEN = %s, output = document.getElementById("output"), sources = [], said = {};
window.EventSource = class extends EventSource { constructor(url) { super(url); sources.push(this); } };
const newTicket = async () => (await fetch("/ticket")).text();
window.onunhandledrejection = (event) => { said.failed = String(event.reason); };
window.onerror = (message) => { said.failed = message; };
setInterval(() => {
  const states = sources.map((source) => source.readyState);
  const body = JSON.stringify({ text: output.textContent, done: !!output.dataset.done, sources: states, ...said });
  fetch("/said", { method: "POST", body });
}, 100);
</script><script type="module">
const { %s } = GIVEN;
%s
</script>"""


class Page:
    """A page, and its server, which has the credential: `ticket` gets what the page's `newTicket()` returns.

    `origin` is where it comes from; `said` what it told last.
    """

    def __init__(self) -> None:
        self.origin = ""
        self.ticket: Callable[[], Awaitable[str]] | None = None
        self.said: dict[str, Any] = {}
        self._more = asyncio.Event()
        self._html = ""
        self._parts = AsyncExitStack()

    async def until(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """What it says once this holds. Fails as soon as its script does."""
        async with asyncio.timeout(PATIENCE_S):
            while not (self.said and condition(self.said)):
                assert "failed" not in self.said, self.said
                self._more.clear()
                await self._more.wait()
        return self.said

    async def open(self, script: str, **given: object) -> None:
        """Open it in a browser of its own, with this script, to which the names `given` are known."""
        assert CHROMIUM is not None
        self._html = _PAGE % (json.dumps(given), ", ".join(given), script)
        profile = self._parts.enter_context(tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True))
        process = await asyncio.create_subprocess_exec(
            *(CHROMIUM, *_ALONE, f"--user-data-dir={profile}", self.origin),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        self._parts.push_async_callback(_end, process)

    async def close(self) -> None:
        await self._parts.aclose()

    async def _show(self, request: web.Request) -> web.Response:
        return web.Response(text=self._html, content_type="text/html")

    async def _hear(self, request: web.Request) -> web.Response:
        self.said = json.loads(await request.read())
        self._more.set()
        return web.Response(status=204)

    async def _give(self, request: web.Request) -> web.Response:
        assert self.ticket is not None
        return web.Response(text=await self.ticket())

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/", self._show)
        app.router.add_get("/ticket", self._give)
        app.router.add_post("/said", self._hear)
        return app


async def new_page(parts: AsyncExitStack) -> Page:
    """A page that is not open yet, but has its origin."""
    page = Page()
    server = TestServer(page.app())
    await server.start_server()
    parts.push_async_callback(server.close)
    parts.push_async_callback(page.close)
    page.origin = f"http://{server.host}:{server.port}"
    return page


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the browser and every process of it, which are a session of their own."""
    os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
