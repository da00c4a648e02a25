"""compose.yaml and what it mounts fit together: files, hosts, variables, data sources. No Docker is needed for that."""

import json
import re
import shutil
import subprocess
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import pytest
import yaml
from stack import COLLECTOR_FILE, COMPOSE, ROOT, SERVICES, TOKEN, environment, loaded, mounts

from gateway.config import SettingsError, load

USER = {"GATEWAY_OPS_TOKEN": TOKEN}
OWN_IMAGE = "responses-gateway"
PROMETHEUS = "/etc/prometheus/prometheus.yml"
ALERTMANAGER = "/etc/alertmanager/alertmanager.yml"
DATA_SOURCES = "/etc/grafana/provisioning/datasources/responses-gateway.yaml"
PROVIDERS = "/etc/grafana/provisioning/dashboards/responses-gateway.yaml"

LISTENS = {
    "gateway": {8080, 9464},
    "simulator": {8081},
    "collector": {4317, 4318, 8888, 13133},
    "tempo": {3200, 4318},
    "prometheus": {9090},
    "alertmanager": {9093},
    "grafana": {3000},
}
"""The ports of each service that stays."""


def test_every_service_is_known_here() -> None:
    assert SERVICES.keys() == LISTENS.keys() | {"collector-volume"}


def test_every_file_that_is_mounted_is_here_and_not_to_be_changed() -> None:
    for name in SERVICES:
        for path in mounts(name).values():
            assert path.exists(), f"{name}: {path}"
    bound = [v for service in SERVICES.values() for v in service.get("volumes", []) if v.startswith(".")]
    assert bound
    assert all(volume.endswith(":ro") for volume in bound)


def test_every_volume_is_declared_and_used() -> None:
    volumes = [v for service in SERVICES.values() for v in service.get("volumes", []) if not v.startswith(".")]
    assert {volume.split(":")[0] for volume in volumes} == COMPOSE["volumes"].keys()


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_built_here_or_pinned_to_a_version(name: str) -> None:
    image = SERVICES[name]["image"]
    if image == OWN_IMAGE:
        assert SERVICES[name]["pull_policy"] in ("build", "never")
    else:
        assert re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+", image)


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_published_is_so_on_this_machine_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        host, outside, inside = port.split(":")
        assert (host, outside) == ("127.0.0.1", inside)
        assert int(inside) in LISTENS[name]


def test_no_port_is_published_twice() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == len(set(ports))


def test_who_is_waited_for_can_say_how_it_is() -> None:
    awaited = {
        (other, needs["condition"])
        for service in SERVICES.values()
        for other, needs in service.get("depends_on", {}).items()
    }
    # The gateway's own health check is its image's.
    healthy = {name for name, service in SERVICES.items() if "test" in service.get("healthcheck", {})} | {"gateway"}
    assert {name for name, condition in awaited if condition == "service_healthy"} <= healthy
    assert LISTENS.keys() - healthy == {"collector"}, "its image has nothing that could ask"
    assert ("collector-volume", "service_completed_successfully") in awaited


def test_traffic_waits_for_no_telemetry_and_telemetry_for_no_traffic() -> None:
    assert SERVICES["gateway"]["depends_on"].keys() == {"simulator"}
    watching = SERVICES.keys() - {"gateway", "simulator"}
    assert not {other for name in watching for other in SERVICES[name].get("depends_on", {})} - watching


def test_the_gateways_variables_are_settings_that_it_starts_with() -> None:
    settings = load({}, environ={"GATEWAY_LISTEN": ":8080", **environment("gateway", USER)})
    assert (settings.listen.port, settings.ops_listen.port) == (8080, 9464)
    assert settings.ops_token is not None
    assert settings.ops_token.get_secret_value() == TOKEN
    assert settings.upstream == "http://simulator:8081/v1"
    elsewhere = environment("gateway", {**USER, "GATEWAY_UPSTREAM": "https://api.openai.com/v1"})
    assert load({}, environ=elsewhere).upstream == "https://api.openai.com/v1"


def test_without_a_token_nothing_starts() -> None:
    with pytest.raises(KeyError, match="GATEWAY_OPS_TOKEN"):
        environment("gateway", {})
    variables = environment("gateway", USER) | {"GATEWAY_OPS_TOKEN": ""}
    with pytest.raises(SettingsError, match="GATEWAY_OPS_LISTEN"):
        load({}, environ=variables)


def test_the_gateway_is_given_the_time_and_the_files_that_its_settings_say() -> None:
    settings = load({}, environ=environment("gateway", USER))
    grace_s = int(SERVICES["gateway"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > settings.drain_delay_s + settings.drain_s
    assert SERVICES["gateway"]["ulimits"]["nofile"] == settings.open_files


def test_every_variable_of_the_collector_is_one_that_its_file_reads() -> None:
    read = set(re.findall(r"\$\{env:(\w+)", COLLECTOR_FILE.read_text()))
    assert {name for name in environment("collector", {}) if name.startswith("OTELCOL_")} <= read


def urls() -> set[tuple[str, str]]:
    """Every URL or host:port that one service is told of another, and whom it is told to."""
    found = {(name, value) for name in SERVICES for value in environment(name, USER).values() if "://" in value}
    found |= {("grafana", source["url"]) for source in loaded("grafana", DATA_SOURCES)["datasources"]}
    config = loaded("prometheus", PROMETHEUS)
    told = [*config["scrape_configs"], *config["alerting"]["alertmanagers"]]
    found |= {("prometheus", f"http://{t}") for one in told for s in one["static_configs"] for t in s["targets"]}
    return found


@pytest.mark.parametrize(("name", "url"), sorted(urls()))
def test_whoever_a_service_is_sent_to_listens_there(name: str, url: str) -> None:
    host, port = urlsplit(url).hostname or "", urlsplit(url).port
    assert port in LISTENS[name if host == "127.0.0.1" else host]


def test_prometheus_shows_the_gateway_the_token_and_keeps_exemplars() -> None:
    (job,) = (j for j in loaded("prometheus", PROMETHEUS)["scrape_configs"] if j["job_name"] == "responses-gateway")
    (secret,) = SERVICES["prometheus"]["secrets"]
    assert job["authorization"] == {"credentials_file": f"/run/secrets/{secret}"}
    assert COMPOSE["secrets"][secret] == {"environment": "GATEWAY_OPS_TOKEN"}
    assert "--enable-feature=exemplar-storage" in SERVICES["prometheus"]["command"]


def test_the_rules_know_the_gateway_by_the_name_of_its_job() -> None:
    rules = mounts("prometheus")[PurePosixPath(loaded("prometheus", PROMETHEUS)["rule_files"][0])].read_text()
    jobs = {job["job_name"] for job in loaded("prometheus", PROMETHEUS)["scrape_configs"]}
    assert set(re.findall(r'job="([^"]+)"', rules)) <= jobs


def test_an_exemplar_leads_to_the_data_source_of_traces() -> None:
    sources = {source["uid"]: source for source in loaded("grafana", DATA_SOURCES)["datasources"]}
    (leads,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert leads["name"] == "trace_id"
    assert sources[leads["datasourceUid"]]["type"] == "tempo"
    assert [source["uid"] for source in sources.values() if source.get("isDefault")] == ["prometheus"]


def test_the_operator_api_is_a_data_source_with_the_token_of_the_gateway_and_for_it_alone() -> None:
    source = next(s for s in loaded("grafana", DATA_SOURCES)["datasources"] if s["uid"] == "operators")
    assert source["jsonData"] == {"auth_method": "bearerToken", "allowedHosts": [source["url"]]}
    variable = source["secureJsonData"]["bearerToken"].removeprefix("$")
    assert environment("grafana", USER)[variable] == environment("gateway", USER)["GATEWAY_OPS_TOKEN"]


def test_every_kind_of_data_source_that_a_dashboard_asks_for_is_there() -> None:
    there = {source["type"] for source in loaded("grafana", DATA_SOURCES)["datasources"]}
    (provider,) = loaded("grafana", PROVIDERS)["providers"]
    folder = mounts("grafana")[PurePosixPath(provider["options"]["path"])]
    dashboards = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    assert len(dashboards) == 3
    asked = {v["query"] for d in dashboards for v in d["templating"]["list"] if v["type"] == "datasource"}
    assert asked == there
    built_in = {"prometheus", "tempo"}
    plugins = environment("grafana", USER)["GF_PLUGINS_PREINSTALL_SYNC"].split(",")
    assert {plugin.split("@")[0] for plugin in plugins} == there - built_in
    assert all(re.fullmatch(r"[\w-]+@\d+\.\d+\.\d+", plugin) for plugin in plugins)


def test_grafanas_first_page_is_one_of_the_dashboards() -> None:
    page = PurePosixPath(environment("grafana", USER)["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (mounts("grafana")[page.parent] / page.name).is_file()


def test_readme_tells_every_address() -> None:
    section = (ROOT / "README.md").read_text().partition("## Run it with Docker")[2].partition("\n## ")[0]
    ports = {port.rpartition(":")[0] for service in SERVICES.values() for port in service.get("ports", [])}
    assert set(re.findall(r"127\.0\.0\.1:\d+", section)) == ports


needs_amtool = pytest.mark.skipif(
    shutil.which("amtool") is None, reason="needs amtool: apt install prometheus-alertmanager"
)


@needs_amtool
@pytest.mark.parametrize(
    ("alert", "severity", "receiver"),
    [("ResponsesGatewayWatchdog", "none", "watchdog"), ("ResponsesGatewayDown", "critical", "operators")],
)
def test_the_watchdog_goes_to_whoever_misses_it_and_all_else_to_the_operators(
    alert: str, severity: str, receiver: str
) -> None:
    path = mounts("alertmanager")[PurePosixPath(ALERTMANAGER)]
    labels = [f"alertname={alert}", f"severity={severity}", "job=responses-gateway"]
    command = ["amtool", "config", "routes", "test", f"--config.file={path}", *labels]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == receiver
    rules = yaml.safe_load((ROOT / "dashboards" / "rules.yml").read_text())
    there = {rule.get("alert"): rule.get("labels", {}).get("severity") for g in rules["groups"] for rule in g["rules"]}
    assert there[alert] == severity
