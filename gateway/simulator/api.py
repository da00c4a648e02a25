"""Simulator: the simulated API as an aiohttp application, and its levers for tests in the same process."""

import time
from collections.abc import Callable, Iterable

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.simulator import control, elsewhere, responses, shelf, websocket
from gateway.simulator.answers import ApiError, add_headers
from gateway.simulator.scenarios import Cut
from gateway.simulator.seen import Seen, with_path
from gateway.simulator.streaming import break_connection
from gateway.simulator.world import OWNER, WORLD, Outage, World

# OpenAI's base path, Azure's of today, and Azure's dated API, which wants `api-version` in the query.
_PREFIXES = ("/v1", "/openai/v1", "/openai")
_MAX_BODY_BYTES = 1024**3


class Simulator:
    """A simulated Responses API.

    `seed` decides all text; `speed` is how many simulated seconds pass in a real one; `clock` gives unix seconds (one
    that does not run by itself needs `skip(0)` after each move); `api_key` is the key that it accepts, or several,
    None: any and none; `gzip`: JSON answers are compressed for those who accept it; `scenario` is what a request gets
    that names none.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        speed: float = 1.0,
        clock: Callable[[], float] = time.time,
        api_key: str | Iterable[str] | None = None,
        gzip: bool = False,
        scenario: str = "normal",
    ) -> None:
        keys = frozenset({api_key} if isinstance(api_key, str) else api_key or ())
        self._world = World(seed=seed, speed=speed, clock=clock, keys=keys, scenario=scenario)
        self._gzip = gzip

    def app(self) -> web.Application:
        """The application. A new one, once the last has been stopped, serves the same responses: a restart."""
        app = web.Application(middlewares=[self._judge], client_max_size=_MAX_BODY_BYTES)
        app[WORLD] = self._world
        for prefix in _PREFIXES:
            routes = responses.ROUTES | websocket.ROUTES | elsewhere.ROUTES | shelf.ROUTES
            for (method, path), handler in routes.items():
                app.router.add_route(method, prefix + path, handler)
        for (method, path), handler in control.ROUTES.items():
            app.router.add_route(method, control.PREFIX + path, handler)
        app.on_response_prepare.append(self._dress)
        app.on_shutdown.append(self._stop)
        return app

    @property
    def requests(self) -> list[Seen]:
        """What it was asked, oldest first; the control pages are left out, and long logs lose their beginning."""
        return list(self._world.seen)

    def asked(self, path_contains: str, method: str | None = None) -> list[Seen]:
        """Those of `requests` with this in their path, and of this method if one is given."""
        return with_path(self._world.seen, path_contains, method)

    @property
    def outage(self) -> Outage:
        """None, the error status of every answer, or `drop`: every connection is reset, open streams too."""
        return self._world.outage

    @outage.setter
    def outage(self, how: Outage) -> None:
        self._world.set_outage(how)

    def forget(self, response_id: str) -> bool:
        """Lose a response: 404 from now on. Streams that are open go on. True if it was there."""
        return self._world.forget(response_id)

    def skip(self, simulated_s: float) -> None:
        """Let so many simulated seconds pass at once, for all responses."""
        self._world.skip(simulated_s)

    def cut(self, response_id: str | None = None, how: Cut = "reset") -> int:
        """Cut the connections that carry a response, or any. Returns how many that were."""
        return self._world.cut(response_id, how)

    def connections(self, response_id: str | None = None) -> int:
        """How many connections carry a response, or any, at this moment."""
        return self._world.connections(response_id)

    def status(self, response_id: str) -> str | None:
        """A response's status, whoever asks; None if it is not known (any more)."""
        record = self._world.records.get(response_id)
        return None if record is None or record.stopped else self._world.status(record)

    async def _stop(self, app: web.Application) -> None:
        await self._world.close()

    async def _dress(self, request: web.Request, response: web.StreamResponse) -> None:
        if not request.path.startswith(control.PREFIX):
            add_headers(self._world, request, response)

    @web.middleware
    async def _judge(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Log, outage, key, then the handler; its errors become answers."""
        world = self._world
        try:
            if request.path.startswith(control.PREFIX):
                return await handler(request)
            await self._log(request)
            if world.outage == "drop":
                await break_connection(request)
                return web.Response()
            if world.outage is not None:
                raise ApiError(world.outage, "The server is overloaded or not ready yet.", kind="server_error")
            _check_version(request)
            request[OWNER] = _owner(world, request)
            response = await handler(request)
        except ApiError as error:
            response = error.answer()
        except web.HTTPNotFound:
            response = ApiError(404, f"Invalid URL ({request.method} {request.path})").answer()
        except web.HTTPMethodNotAllowed:
            message = f"Not allowed to {request.method} on {request.path}."
            response = ApiError(405, message, code="method_not_supported").answer()
        accepts = "gzip" in request.headers.get("Accept-Encoding", "")
        if self._gzip and accepts and not response.prepared and response.content_type == "application/json":
            response.enable_compression(web.ContentCoding.gzip)
        return response

    async def _log(self, request: web.Request) -> None:
        is_upload = request.method == "POST" and request.path.endswith("/files")
        body = b"" if is_upload else await request.read()
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers]
        self._world.seen.add(Seen(request.method, request.raw_path, headers, body))


def _check_version(request: web.Request) -> None:
    dated = request.path.startswith("/openai/") and not request.path.startswith("/openai/v1/")
    if dated and "api-version" not in request.query:
        raise ApiError(404, "Resource not found", code="404")


def _owner(world: World, request: web.Request) -> str:
    """The key that a request came with. Raises ApiError 401 if it is not one of those accepted."""
    key = request.headers.get("Authorization", "").removeprefix("Bearer ").strip() or request.headers.get("api-key", "")
    if world.keys and key not in world.keys:
        if not key:
            raise ApiError(
                401,
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
            )
        shown = f"{key[:4]}***{key[-2:]}" if len(key) > 8 else "***"
        raise ApiError(401, f"Incorrect API key provided: {shown}.", code="invalid_api_key")
    return key
