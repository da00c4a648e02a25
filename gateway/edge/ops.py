"""placeholder while it is written"""
from aiohttp import web
from gateway.edge.context import Context
from gateway.telemetry.metrics import Metrics


def ops_app(context: Context, metrics: Metrics) -> web.Application:
    return web.Application()
