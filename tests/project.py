"""An upstream where several keys are one project's, and where a key can be revoked."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Middleware
from running import Upstream
from stories import STILL

from gateway.simulator import Simulator

ALICE = "sk-alice"


@dataclass
class Project:
    """The keys of one project: upstream shows each of them what another one made. `used`: key and method by request."""

    keys: set[str]
    used: list[tuple[str, str]] = field(default_factory=list)

    def last_poll(self) -> str | None:
        """The key of the newest GET."""
        return next((key for key, method in reversed(self.used) if method == "GET"), None)

    def middleware(self) -> Middleware:
        @web.middleware
        async def judge(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            key = request.headers.get("Authorization", "").removeprefix("Bearer ")
            self.used.append((key, request.method))
            owner = ALICE if key in self.keys else key
            return await handler(request.clone(headers={**request.headers, "Authorization": f"Bearer {owner}"}))

        return judge


async def project_upstream(parts: AsyncExitStack, *keys: str, **options: Any) -> tuple[Upstream, Project]:
    """A simulator in which time passes only by `skip`, with a project of these keys."""
    project = Project(set(keys))
    simulator = Simulator(**STILL, api_key=ALICE, **options)
    app = simulator.app()
    app.middlewares.insert(0, project.middleware())
    server = TestServer(app)
    await server.start_server()
    parts.push_async_callback(server.close)
    return Upstream(simulator, server), project
