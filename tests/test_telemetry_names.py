"""Names that leave the process as telemetry: in one place, and those of the conventions as they define them."""

import ast
import re
from pathlib import Path
from types import ModuleType

import opentelemetry.util.genai
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, openai_attributes
from opentelemetry.semconv.attributes import (
    error_attributes,
    http_attributes,
    server_attributes,
    service_attributes,
    url_attributes,
    user_agent_attributes,
)

import gateway
from gateway.telemetry import names

PACKAGE = Path(gateway.__file__).parent
STABLE = (
    error_attributes,
    http_attributes,
    server_attributes,
    service_attributes,
    url_attributes,
    user_agent_attributes,
)
MOVING = (gen_ai_attributes, openai_attributes)
# What the package of the conventions does not know, as the GenAI ones left it in May 2026 and moved on since. Source:
# docs/gen-ai/gen-ai-spans.md of open-telemetry/semantic-conventions-genai, and OpenTelemetry's own library of them.
NEWER = {
    names.GENAI_COMPACTED,
    names.GENAI_PROMPT_VERSION,
    names.GENAI_REQUEST_CURSOR,
    names.GENAI_REQUEST_PREVIOUS,
    names.GENAI_REQUEST_REASONING,
    names.GENAI_RESPONSE_STATUS,
    names.GENAI_USAGE_CACHE_WRITTEN,
}

# Of the metrics of the main branch (docs/gen-ai/gen-ai-token-metrics.md), which that library does not emit yet.
NEWEST = {names.GENAI_TOKEN_MODALITY}


def constants(*modules: ModuleType) -> set[str]:
    return {
        value for module in modules for name, value in vars(module).items() if name.isupper() and isinstance(value, str)
    }


def claimed(*prefixes: str) -> set[str]:
    """The names with these prefixes that are emitted; what ends in a dot is only the beginning of some."""
    return {name for name in constants(names) if name.startswith(prefixes) and not name.endswith(".")}


def test_a_name_of_the_stable_conventions_is_one_of_theirs() -> None:
    prefixes = ("error.", "http.", "server.", "service.", "url.", "user_agent.")
    assert claimed(*prefixes) <= constants(*STABLE)
    assert len(claimed(*prefixes)) >= 12
    assert error_attributes.ErrorTypeValues.OTHER.value == names.ERROR_OTHER


def test_a_name_of_the_moving_conventions_is_one_of_theirs_or_newer() -> None:
    assert claimed("gen_ai.", "openai.") - constants(*MOVING) == NEWER | NEWEST, (
        "what is known by now needs no exception"
    )
    assert len(claimed("gen_ai.", "openai.")) >= 25
    assert gen_ai_attributes.GenAiProviderNameValues.OPENAI.value == names.PROVIDER_OPENAI
    assert gen_ai_attributes.GenAiOperationNameValues.CHAT.value == names.OPERATION_CHAT
    assert openai_attributes.OpenaiApiTypeValues.RESPONSES.value == names.API_RESPONSES
    assert names.GENAI_CONVENTION == "2026-10"


def test_what_is_newer_is_called_as_opentelemetrys_own_library_calls_it() -> None:
    library = Path(opentelemetry.util.genai.__file__).parent
    emitted = {name for path in library.glob("*.py") for name in re.findall(r'"(gen_ai\.[a-z_.]+)"', path.read_text())}
    assert emitted >= NEWER


def test_a_name_that_no_convention_defines_says_whose_it_is() -> None:
    every = {
        value
        for name, value in vars(names).items()
        if name.isupper() and isinstance(value, str) and re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", value)
    }
    assert every - constants(*STABLE, *MOVING) - NEWER - NEWEST == claimed("gateway.")


def test_no_name_is_spelt_outside_of_the_names() -> None:
    prefixes = ("gen_ai.", "openai.", "gateway.", "http.re", "server.", "url.", "user_agent.", "responses_gateway_")
    known = constants(names)
    for path in (PACKAGE / "telemetry").glob("*.py"):
        if path.name == "names.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(prefixes):
                assert node.value not in known, f"{path.name}:{node.lineno} spells {node.value}"
