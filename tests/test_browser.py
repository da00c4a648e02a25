"""README's pages in a real browser: they follow a response over a line that is cut, and show its text once."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from browser import Page, needs_chromium, new_page
from readme import examples
from running import Running, Upstream
from stories import STILL, Ahead, fetch, job, some
from wire import Cable, cable_to

from gateway.domain.continuation import CursorForm
from gateway.domain.facts import Attached, RequestServed

EVENT_SOURCE, FETCH = (example.code for example in examples("<!-- runs in a browser -->"))
CLOSED = 2

pytestmark = needs_chromium


@dataclass
class Story:
    """A response that stands still at its beginning, and a page of another origin that is yet to be opened."""

    upstream: Upstream
    gateway: Running
    cable: Cable
    page: Page
    response_id: str

    async def open(self, script: str, **given: object) -> None:
        """Open the page; what it asks of the gateway goes over the cable."""
        await self.page.open(script, api=f"{self.cable.url}/v1", id=self.response_id, **given)

    async def ticket(self) -> str:
        """As the page's server gets one."""
        path = f"/v1/responses/{self.response_id}/x-gateway-ticket"
        ticket: str = (await fetch(self.gateway.url + path, "POST")).json["ticket"]
        return ticket

    async def begun(self) -> str:
        """Let the response come to the middle of its text; what the page then shows."""
        await self.gateway.facts.wait_for(Attached, lambda fact: fact.kind == "replay")
        self.upstream.simulator.skip(2)
        said = await self.page.until(lambda said: len(said["text"]) > 20)
        return str(said["text"])

    async def shown_once(self, begun: str, text: str) -> None:
        """The page shows the whole text, once, and more than it had at the cut."""
        assert text == (await self.gateway.client().responses.retrieve(self.response_id)).output_text
        assert text.startswith(begun)
        assert len(begun) < len(text)

    def resumed(self, form: CursorForm) -> list[int]:
        """The cursors of this form that readers came with."""
        return [fact.after for fact in self.gateway.facts.of(Attached) if fact.form is form]

    def statuses(self) -> list[int]:
        """Of everything that the gateway has answered."""
        return [fact.status for fact in self.gateway.facts.of(RequestServed)]


@pytest.fixture
def begin(parts: AsyncExitStack, simulate, gateway_for):
    async def start(**settings: Any) -> Story:
        page = await new_page(parts)
        upstream = await simulate(**STILL)
        gateway = await gateway_for(upstream.url, **{"cors_origins": (page.origin,), **settings})
        stream = await gateway.client().responses.create(**job())
        response_id = (await some(stream, 2))[0]["response"]["id"]
        story = Story(upstream, gateway, await cable_to(parts, gateway.url), page, response_id)
        page.ticket = story.ticket
        return story

    return start


@pytest.mark.parametrize("key", [None, "sk-gateway"])
async def test_an_event_source_reconnects_by_itself_shows_the_text_once_and_stops_at_the_end(begin, key) -> None:
    story = await begin(upstream_api_key=key)
    await story.open(EVENT_SOURCE)
    begun = await story.begun()

    assert story.cable.cut()
    story.upstream.simulator.skip(60)
    said = await story.page.until(lambda said: said["sources"] == [CLOSED])

    assert story.statuses()[-1] == 204
    (resumed_after,) = story.resumed(CursorForm.LAST_EVENT_ID)
    assert 2 < resumed_after < 83
    await story.shown_once(begun, said["text"])


async def test_after_its_ticket_has_expired_an_event_source_stops_and_a_new_one_goes_on(begin) -> None:
    story = await begin(ticket_s=60, clock=(clock := Ahead()))
    await story.open(EVENT_SOURCE)
    begun = await story.begun()

    clock.by_s = 61
    assert story.cable.cut()
    story.upstream.simulator.skip(60)
    said = await story.page.until(lambda said: said["sources"] == [CLOSED, CLOSED])

    assert story.statuses().count(401) == 1
    assert len(story.resumed(CursorForm.STARTING_AFTER)) == 1
    await story.shown_once(begun, said["text"])


async def test_an_event_source_is_told_of_a_cancel_and_stops(begin) -> None:
    story = await begin()
    await story.open(EVENT_SOURCE)
    begun = await story.begun()

    await story.gateway.client().responses.cancel(story.response_id)
    said = await story.page.until(lambda said: said["sources"] == [CLOSED])

    assert story.statuses()[-1] == 204
    assert said["text"].startswith(begun)


async def test_a_page_with_the_credential_streams_with_fetch_and_goes_on_at_its_cursor(begin) -> None:
    story = await begin()
    await story.open(f"{FETCH}\noutput.dataset.done = true;", headers={"Authorization": "Bearer sk-test"})
    begun = await story.begun()

    assert story.cable.cut()
    story.upstream.simulator.skip(60)
    said = await story.page.until(lambda said: said["done"])

    assert len(story.resumed(CursorForm.STARTING_AFTER)) == 1
    await story.shown_once(begun, said["text"])


async def test_a_page_reads_the_gateways_headers(begin) -> None:
    story = await begin()
    script = """
      const answer = await fetch(`${api}/responses/${id}`, { headers: { Authorization: "Bearer sk-test" } });
      output.append(answer.headers.get("x-gateway-continuation-token"));
    """
    await story.open(script)
    said = await story.page.until(lambda said: said["text"])
    assert said["text"].startswith(f"{story.response_id}~")


async def test_a_page_of_another_origin_is_shown_nothing(begin) -> None:
    story = await begin(cors_origins=("https://app.example",))
    await story.open(
        """
        const answer = (headers) => fetch(`${api}/responses/${id}`, { headers }).then((got) => got.status, String);
        output.append(await answer({}), " ", await answer({ Authorization: "Bearer sk-test" }));
        """
    )
    said = await story.page.until(lambda said: said["text"])
    assert said["text"] == "TypeError: Failed to fetch TypeError: Failed to fetch"
    assert story.statuses()[-1] == 403  # the preflight; the request itself was not sent
