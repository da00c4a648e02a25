"""A collector as tests hold it: it takes spans over real OTLP, and can be slow, deaf or away."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from running import PATIENCE_S

from gateway.telemetry.receiver import Received, Receiver


class Collector(Receiver):
    """A receiver on a port of its own, which nobody listens on until it is opened.

    `swallows`: requests are read, and neither kept nor answered. `silent`: they are kept, and not answered. `refuses`:
    they are answered with 400.
    """

    def __init__(self) -> None:
        super().__init__()
        self.swallows = self.silent = self.refuses = False
        self.asked = 0
        self.headers: list[dict[str, str]] = []
        self._changed = asyncio.Event()
        self._grpc: Any = None
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    async def open(self) -> None:
        """Listen: until then connections are refused."""
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()

    async def close(self) -> None:
        """Stop listening, for good."""
        await super().close()
        if self._grpc is not None:
            await asyncio.to_thread(self._grpc.stop(0).wait)
        self._socket.close()

    async def _take(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.headers.append(dict(request.headers))
        if self.swallows:
            await request.read()
            self._tell()
            await asyncio.Event().wait()
        if self.refuses:
            return web.Response(status=400)
        answer = await super()._take(request)
        self._tell()
        if self.silent:
            await asyncio.Event().wait()
        return answer

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, holds: Callable[[], Any]) -> Any:
        """Wait for what the requests bring."""
        async with asyncio.timeout(PATIENCE_S):
            while not (found := holds()):
                await self._changed.wait()
        return found

    async def open_grpc(self) -> str:
        """Listen for gRPC, too; where."""
        loop = asyncio.get_running_loop()

        class Service(TraceServiceServicer):
            def Export(service, request: Any, context: Any) -> Any:
                def keep() -> None:
                    self.headers.append(dict(context.invocation_metadata()))
                    self.keep(request)
                    self._tell()

                loop.call_soon_threadsafe(keep)
                return ExportTraceServiceResponse()

        self._grpc = grpc.server(ThreadPoolExecutor(2))
        add_TraceServiceServicer_to_server(Service(), self._grpc)
        port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._grpc.start()
        return f"http://127.0.0.1:{port}"

    def named(self, name: str) -> Sequence[Received]:
        """Every span of a name, as often as it came."""
        return [span for span in self.spans if span.name == name]

    async def span(self, name: str) -> Received:
        """The first span of a name, once it is there."""
        found: Sequence[Received] = await self.until(lambda: self.named(name))
        return found[0]
