"""The bare proxy: the least that a pass-through in aiohttp has to do. It knows no response and keeps nothing."""

import sys

import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

from benchmarks.processes import serve_until_told
from benchmarks.wire import HOST

_HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host"}


def _app(upstream: str, session: ClientSession) -> web.Application:
    async def forward(request: web.Request) -> web.StreamResponse:
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP]
        body = await request.read() if request.body_exists else None
        async with session.request(request.method, upstream + request.raw_path, headers=headers, data=body) as answer:
            response = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    response.headers.add(name, value)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    return app


async def _main(upstream: str) -> None:
    connector, timeout = TCPConnector(limit=0), ClientTimeout(total=None)
    async with ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        runner = web.AppRunner(_app(upstream, session), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, HOST, 0, backlog=2048).start()
        await serve_until_told(runner.addresses[0][1])
        await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1]))
