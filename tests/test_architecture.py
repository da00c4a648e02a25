"""The walls of the house: floors, vendors, purity, length, and what nobody may do."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gateway"
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOORS = ["config", "domain", "telemetry", "store", "relay", "edge", "top"]
FLOOR_OF = {
    **{floor: floor for floor in FLOORS},
    "config_conflicts": "config",
    "config_reading": "config",
    "config_store": "config",
    "config_types": "config",
    "config_writing": "config",
    "child": "config",
    "": "config",
    "simulator": "simulator",
}

VENDORS = {
    "aiohttp": {"relay.upstream", "edge", "simulator", "top", "telemetry.receiver"},
    "msgspec": {"domain", "simulator", "store", "telemetry", "edge.ops", "edge.ops_story", "top"},
    "yarl": {"relay", "top"},
    "multidict": {"relay.upstream", "edge"},
    "opentelemetry": {"telemetry"},
    "prometheus_client": {"telemetry.series"},
    "structlog": {"telemetry.logs", "telemetry.rendering"},
    "redis": {"store"},
    "sqlite3": {"store"},
    "pydantic": {"config"},
    "uvloop": {"top"},
    "wsproto": {"edge.websocket_observer"},
    "openai": {"top"},
    "cryptography": {"relay.credentials"},
}

PURE = {"asyncio", "time", "os", "socket", "threading", "random", "logging", "pathlib", "subprocess"}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def floor_of(module: str) -> str:
    head = module.split(".", maxsplit=1)[0]
    return FLOOR_OF.get(head, "top")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
            yield ast.unparse(node), node.lineno
        elif isinstance(node, ast.Name):
            yield node.id, node.lineno


def spelt(path: Path) -> set[str]:
    """Texts: by one of them getattr could reach what may not be called."""
    return {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_from_its_own_floor_or_below(path: Path) -> None:
    module = name_of(path)
    own = floor_of(module)
    for imported in imports(path):
        if not imported.startswith("gateway"):
            continue
        other = floor_of(imported.removeprefix("gateway").lstrip("."))
        if own == "simulator":
            assert other in ("simulator", "domain", "config"), f"{module} imports {imported}"
        elif other == "simulator":
            assert own == "top", f"{module} imports {imported}"
        else:
            assert FLOORS.index(other) <= FLOORS.index(own), f"{module} imports {imported}, a floor above"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_vendor_is_imported_only_where_it_belongs(path: Path) -> None:
    module = name_of(path)
    for imported in imports(path):
        allowed = VENDORS.get(imported.split(".")[0])
        if allowed is None:
            continue
        here = {module, module.split(".")[0], floor_of(module)}
        assert here & allowed, f"{module} imports {imported}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "domain").glob("*.py")), ids=name_of)
def test_the_domain_is_pure(path: Path) -> None:
    assert not {imported.split(".")[0] for imported in imports(path)} & PURE
    tree = ast.parse(path.read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await)]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_file_has_at_most_350_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 350


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_name_says_what_is_in_a_module(path: Path) -> None:
    assert not set(name_of(path).split(".")) & {"utils", "helpers", "manager", "service", "common"}


def users_of(*names: str) -> set[str]:
    return {name_of(path) for path in MODULES for used, _ in calls(path) if used in names}


def test_tasks_are_started_by_the_tracker_alone_and_where_a_server_is_listened_to() -> None:
    started = users_of("create_task", "ensure_future", "TaskGroup")
    elsewhere = {"store.redis_link", "telemetry.exporter", "telemetry.exporter_process"}
    assert {name for name in started if floor_of(name) != "top"} <= {"relay.tracker", *elsewhere}


def test_the_environment_is_read_by_the_settings_alone() -> None:
    assert users_of("os.environ", "os.getenv", "getenv") <= {"config"}


# What makes a context or a span the current one, in whatever disguise: what was never made so cannot fail to be undone.
MADE_CURRENT = {
    "attach",
    "detach",
    "use_span",
    "start_as_current_span",
    "_RUNTIME_CONTEXT",
    "set_tracer_provider",
    "set_global_textmap",
    "auto_instrumentation",
    "BaseInstrumentor",
}


def test_no_span_is_ever_attached_to_a_context() -> None:
    for path in MODULES:
        words = {word for used, _ in calls(path) for word in used.split(".")}
        imported = {part for name in imports(path) for part in name.split(".")}
        named = spelt(path) if "opentelemetry" in imported else set()
        assert not (words | imported | named) & MADE_CURRENT, name_of(path)
        assert not [name for name in imports(path) if name.startswith("opentelemetry.instrumentation")], name_of(path)


def test_no_body_is_decoded_above_the_domain() -> None:
    relay_and_store = [path for path in MODULES if floor_of(name_of(path)) in ("relay",)]
    assert not [name_of(path) for path in relay_and_store if {"json", "msgspec"} & set(imports(path))]
