"""otel-collector.yaml is as it was when a real Collector took it: its parts, in order, and what they are told."""

import re

import yaml
from stack import COLLECTOR_FILE, CONTRIB, core_of

TEXT = COLLECTOR_FILE.read_text()
CONFIG = yaml.safe_load(TEXT)
PIPELINES = CONFIG["service"]["pipelines"]


def test_it_consists_of_these_parts_under_their_names_of_today() -> None:
    parts = {kind: list(CONFIG[kind]) for kind in CONFIG if kind != "service"}
    assert parts == {
        "extensions": ["health_check", "file_storage"],
        "receivers": ["otlp"],
        "processors": ["memory_limiter"],
        "exporters": ["otlp_http/backend", "debug"],
    }
    assert set(CONFIG["extensions"]) == CONTRIB
    assert CONFIG["service"]["extensions"] == list(CONFIG["extensions"])


def test_the_memory_limiter_is_first_and_the_only_processor_of_every_pipeline() -> None:
    assert PIPELINES.keys() == {"traces", "logs"}
    for pipeline in PIPELINES.values():
        assert pipeline["receivers"] == ["otlp"]
        assert pipeline["processors"] == ["memory_limiter"]


def test_it_listens_on_this_machine_unless_it_is_told_otherwise() -> None:
    protocols = CONFIG["receivers"]["otlp"]["protocols"]
    addresses = [protocols["grpc"], protocols["http"], CONFIG["extensions"]["health_check"]]
    assert [one["endpoint"] for one in addresses] == [
        "${env:OTELCOL_HOST:-127.0.0.1}:4317",
        "${env:OTELCOL_HOST:-127.0.0.1}:4318",
        "${env:OTELCOL_HOST:-127.0.0.1}:13133",
    ]
    (reader,) = CONFIG["service"]["telemetry"]["metrics"]["readers"]
    assert reader["pull"]["exporter"]["prometheus"] == {"host": "${env:OTELCOL_HOST:-127.0.0.1}", "port": 8888}
    assert "0.0.0.0" not in yaml.safe_dump(CONFIG)


def test_the_exporter_makes_the_batches_and_keeps_what_it_could_not_send_on_disk_for_as_long_as_it_takes() -> None:
    backend = CONFIG["exporters"]["otlp_http/backend"]
    assert backend["retry_on_failure"]["enabled"] is True
    assert backend["retry_on_failure"]["max_elapsed_time"] == "0s"
    queue = backend["sending_queue"]
    assert (queue["enabled"], queue["storage"], queue["sizer"]) == (True, "file_storage", "items")
    assert queue["batch"]["min_size"] < queue["batch"]["max_size"] < queue["queue_size"]


def test_backend_and_exporters_are_chosen_by_variables_which_its_head_explains() -> None:
    read = dict(re.findall(r"\$\{env:(OTELCOL_\w+):-([^}]*)\}", TEXT))
    assert read == {
        "OTELCOL_BACKEND_ENDPOINT": "http://127.0.0.1:4319",
        "OTELCOL_BACKEND_HEADERS": "",
        "OTELCOL_EXPORTERS": "[otlp_http/backend]",
        "OTELCOL_LOG_EXPORTERS": "[otlp_http/backend]",
        "OTELCOL_HOST": "127.0.0.1",
        "OTELCOL_STORAGE": "/var/lib/otelcol",
    }
    head = TEXT.partition("\nextensions:")[0]
    assert set(re.findall(r"^#   (OTELCOL_\w+)  ", head, re.M)) == read.keys()


def test_there_is_no_tail_sampling_and_its_head_says_why() -> None:
    assert "No tail sampling, on purpose." in TEXT
    assert "tail_sampling" not in TEXT


def test_with_the_marks_removed_it_scrapes_the_gateway() -> None:
    body = TEXT[TEXT.index("\nextensions:") :]
    config = yaml.safe_load(re.sub(r"^#(?=  )", "", body, flags=re.M))
    pipeline = config["service"]["pipelines"]["metrics"]
    assert pipeline["processors"] == ["memory_limiter"]
    (receiver,), (exporter,) = pipeline["receivers"], pipeline["exporters"]
    assert exporter in CONFIG["exporters"]
    (job,) = config["receivers"][receiver]["config"]["scrape_configs"]
    assert job["job_name"] == "responses-gateway"
    assert config["receivers"]["otlp"] == CONFIG["receivers"]["otlp"]
    assert config["service"]["pipelines"].items() > PIPELINES.items()


def test_without_contrib_it_is_the_same_less_the_extensions_and_the_place_of_the_queue() -> None:
    core = core_of(CONFIG)
    assert core["service"].pop("extensions") == []
    assert core.pop("extensions") == {}
    queue = core["exporters"]["otlp_http/backend"]["sending_queue"]
    assert "storage" not in queue
    queue["storage"] = "file_storage"
    core["service"]["extensions"] = CONFIG["service"]["extensions"]
    assert core == {name: part for name, part in CONFIG.items() if name != "extensions"}
