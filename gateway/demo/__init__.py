"""The demo: the main job, walked through with OpenAI's SDK on a simulator, saying in plain words what it does and sees.

It needs no key and nothing beyond this machine. Whatever it shows is checked; the first thing that is not so ends it.

    chapters.py  what is shown: a function per chapter
    stage.py     what it is shown on: processes, clients, collector
    telling.py   how it is said
"""

import asyncio
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

import aiohttp
import openai

from gateway.config import environment
from gateway.demo.chapters import CHAPTERS, Chapter
from gateway.demo.stage import Broken, set_up
from gateway.demo.telling import NotSo, Teller

# Some twenty seconds where nothing else runs.
_AT_MOST_S = 300.0


def run(
    chapters: Sequence[Chapter] = CHAPTERS, *, out: TextIO | None = None, environ: Mapping[str, str] | None = None
) -> int:
    """Play the demo to `out` (stdout). 0: everything it showed was so; 1: something was not, or does not work.

    Processes and files are gone when it returns or raises, KeyboardInterrupt included.
    """
    environ = environment() if environ is None else environ
    tell = Teller(sys.stdout if out is None else out, environ)
    try:
        return asyncio.run(_play(chapters, tell, environ))
    except asyncio.CancelledError:
        tell.say("", "Stopped; its processes and files are gone.")
        return 1


async def _play(chapters: Sequence[Chapter], tell: Teller, environ: Mapping[str, str]) -> int:
    began = time.monotonic()
    _end_on_signals()
    tell.title("Responses Gateway: a demonstration")
    tell.say("What is marked ok was checked. No key is needed, nothing leaves this machine.", "")
    try:
        async with asyncio.timeout(_AT_MOST_S), set_up(environ) as stage:
            tell.show("upstream", f"{stage.upstream_url}   simulated")
            tell.show("gateway", f"{stage.gateway_url}   a process of its own, on a SQLite file")
            tell.show("client", f"OpenAI's SDK for Python, {openai.__version__}")
            for chapter in chapters:
                await chapter(stage, tell)
            tell.chapter("The gateway is told to stop")
            status = await stage.gateway.stop()
            tell.claim("it finishes what it has to and exits with status 0", status == 0, status)
    except (NotSo, Broken) as reason:
        tell.fail(str(reason))
        return 1
    except TimeoutError:
        tell.fail(f"the demo did not end within {_AT_MOST_S:g} s")
        return 1
    except (openai.OpenAIError, aiohttp.ClientError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        tell.fail(f"a call went wrong that should not have: {type(error).__name__}: {error}")
        return 1
    tell.say("", f"All {tell.claims} claims held, in {time.monotonic() - began:.0f} s. To use it:", "")
    tell.say("  responses-gateway serve        and in your application:")
    tell.say('  OpenAI(base_url="http://127.0.0.1:8080/v1")')
    return 0


def _end_on_signals() -> None:
    """Let a signal end the demo the way Ctrl-C does: with everything cleaned up."""
    main = asyncio.current_task()
    assert main is not None
    for which in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(which, main.cancel)
