"""Which web pages may use the gateway: `cors_origins` decides, and while it is empty upstream does."""

import pytest
from stories import ask, fetch, job
from wire import answering, scripted_upstream

PAGE, OTHER = "https://app.example", "https://elsewhere.example"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}
UPSTREAMS = (
    b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: https://up.example\r\naccess-control-expose-headers: x-up\r\n"
    b"Access-Control-Allow-Credentials: true\r\nVary: Accept\r\nContent-Length: 2\r\n\r\nok"
)


def of_cors(answer):
    return {name.lower(): value for name, value in answer.headers.items() if name.lower().startswith("access-control")}


def from_page(origin=PAGE):
    return {"Origin": origin}


OPEN_TO_PAGE = {"access-control-allow-origin": PAGE, "access-control-expose-headers": "*"}


@pytest.fixture
def origins_of(parts, gateway_for):
    """A gateway with these `cors_origins`, in front of an upstream with a mind of its own about CORS."""

    async def start(*origins, **settings):
        upstream = await scripted_upstream(parts, answering(UPSTREAMS))
        return upstream, await gateway_for(upstream.url, cors_origins=origins, **settings)

    return start


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_while_the_setting_is_empty_upstreams_word_on_cors_passes(origins_of, method):
    upstream, gateway = await origins_of()
    answer = await fetch(f"{gateway.url}/v1/models", method, headers=PREFLIGHT)
    assert of_cors(answer) == {
        "access-control-allow-origin": "https://up.example",
        "access-control-expose-headers": "x-up",
        "access-control-allow-credentials": "true",
    }
    assert answer.headers["Vary"] == "Accept"
    assert len(upstream.asked) == 1


async def test_a_page_that_is_named_may_read_every_answer_and_its_headers(stage):
    _, gateway = await stage(cors_origins=("https://first.example", PAGE))
    page = from_page()
    streamed = await fetch(f"{gateway.url}/v1/responses", "POST", body=job(), headers=page)
    url = f"{gateway.url}/v1/responses/{streamed.events[0]['response']['id']}"
    after_the_end = {**page, "Accept": "text/event-stream", "Last-Event-ID": "9999"}
    for answer, status in [
        (streamed, 200),
        (await fetch(url, headers=page), 200),
        (await fetch(f"{url}?stream=true", headers=page), 200),
        (await fetch(f"{url}?stream=true", headers=after_the_end), 204),
        (await fetch(f"{url}?x-gateway-ticket=no", headers=page), 401),
        (await fetch(f"{gateway.url}/v1/responses/resp_unknown", headers=page), 404),
        (await fetch(f"{gateway.url}/elsewhere", headers=page), 404),
        (await fetch(f"{gateway.url}/v1/responses", "POST", body=ask("rejected"), headers=page), 400),
    ]:
        assert answer.status == status
        assert of_cors(answer) == OPEN_TO_PAGE
        assert answer.headers.getall("Vary") == ["Origin"]


async def test_what_upstream_says_about_cors_is_replaced(origins_of):
    _, gateway = await origins_of(PAGE)
    answer = await fetch(f"{gateway.url}/v1/models", headers=from_page())
    assert of_cors(answer) == OPEN_TO_PAGE
    assert answer.headers.getall("Vary") == ["Accept", "Origin"]


@pytest.mark.parametrize("headers", [from_page(OTHER), from_page("null"), {}])
async def test_another_page_is_not_shown_an_answer(origins_of, headers):
    upstream, gateway = await origins_of(PAGE)
    answer = await fetch(f"{gateway.url}/v1/models", headers=headers)
    assert (answer.status, of_cors(answer)) == (200, {})
    assert answer.headers.getall("Vary") == ["Accept", "Origin"]
    assert len(upstream.asked) == 1


async def test_a_star_is_for_all_pages(origins_of):
    _, gateway = await origins_of("*")
    answer = await fetch(f"{gateway.url}/v1/models", headers=from_page(OTHER))
    assert of_cors(answer) == {"access-control-allow-origin": "*", "access-control-expose-headers": "*"}
    assert answer.headers.getall("Vary") == ["Accept"]


@pytest.mark.parametrize(("origins", "allowed"), [((PAGE,), PAGE), (("*",), "*")])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/resp_1", "/v1/models"])
async def test_a_preflight_is_answered_here_without_a_credential(origins_of, origins, allowed, path):
    upstream, gateway = await origins_of(*origins)
    answer = await fetch(gateway.url + path, "OPTIONS", key="", headers=PREFLIGHT)
    assert (answer.status, answer.body) == (204, b"")
    assert of_cors(answer) == {
        "access-control-allow-origin": allowed,
        "access-control-allow-headers": "Authorization, *",
        "access-control-allow-methods": "*",
        "access-control-expose-headers": "*",
        "access-control-max-age": "600",
    }
    assert upstream.asked == []


async def test_a_preflight_of_another_page_is_refused_with_the_setting_to_change(origins_of):
    upstream, gateway = await origins_of(PAGE)
    answer = await fetch(f"{gateway.url}/v1/responses", "OPTIONS", headers={**PREFLIGHT, "Origin": OTHER})
    assert (answer.status, answer.error["code"]) == (403, "origin_not_allowed")
    assert OTHER in answer.error["message"]
    assert "cors_origins" in answer.error["message"]
    assert of_cors(answer) == {}
    assert upstream.asked == []


async def test_other_options_requests_pass(origins_of):
    upstream, gateway = await origins_of(PAGE)
    assert (await fetch(f"{gateway.url}/v1/models", "OPTIONS", headers=from_page())).body == b"ok"
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("origins", [(), (PAGE,)])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_no_other_page_can_spend_the_gateways_own_key(origins_of, origins, method):
    """A page's simple request is sent without a preflight: what it may not read it may still have caused."""
    upstream, gateway = await origins_of(*origins, upstream_api_key="sk-own")
    body = ask() if method == "POST" else None
    answer = await fetch(f"{gateway.url}/v1/responses/x", method, key="", headers=from_page(OTHER), body=body)
    assert (answer.status, answer.error["code"]) == (403, "origin_not_allowed")
    assert upstream.asked == []

    assert (await fetch(f"{gateway.url}/v1/models", headers=from_page() if origins else {})).status == 200
    assert upstream.asked[0].header(b"authorization") == [b"Bearer sk-own"]
