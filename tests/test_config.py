"""A setting is written as a flag, a variable or a key of a file; a bad one is one clear line, never a traceback."""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway import config, config_writing
from gateway.config import Address, Price, Settings, SettingsError, add_flags, flags_of, load
from gateway.config_store import RedisUrl

ROOT = Path(__file__).parents[1]
FIELDS = Settings.model_fields


def loaded(*typed: str, environ: Mapping[str, str] = {}, config_file: Path | None = None) -> Settings:
    """What `serve` makes of these arguments."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser)
    return load(flags_of(parser.parse_args(typed)), environ=environ, config_file=config_file)


def complaint(*typed: str, **places: Any) -> str:
    """The one line with which the same arguments are refused."""
    with pytest.raises(SettingsError) as refused:
        loaded(*typed, **places)
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


KEY = "c2VhbGluZy1rZXktb2YtMzItYnl0ZXMtMDEyMzQ1Njc="


@pytest.fixture
def key_file(tmp_path):
    """Write this text into a file of keys."""
    path = tmp_path / "sealing.keys"
    return lambda text: path.write_text(text, encoding="latin-1") and path


@pytest.fixture
def file(tmp_path):
    """Write this text into a TOML file."""
    path = tmp_path / "gateway.toml"
    return lambda text: path.write_text(text, encoding="utf-8") and path


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file(file):
    path = file("poll_max_age_s = 3\nheartbeat_s = 3\nlinger_s = 3")
    environ = {"GATEWAY_POLL_MAX_AGE_S": "2", "GATEWAY_HEARTBEAT_S": "2"}

    settings = loaded("--poll-max-age-s", "1.5", environ=environ, config_file=path)

    assert (settings.poll_max_age_s, settings.heartbeat_s, settings.linger_s) == (1.5, 2, 3)
    assert settings.drain_s == Settings().drain_s


def test_the_file_is_named_by_the_flag_or_by_the_variable(file, tmp_path):
    by_variable = tmp_path / "other.toml"
    by_variable.write_text("max_live = 7")
    environ = {"GATEWAY_CONFIG": str(by_variable)}

    assert loaded(environ=environ).max_live == 7
    assert loaded(environ=environ, config_file=file("max_live = 8")).max_live == 8


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_can_be_written_in_each_place_and_its_default_means_what_it_says(name, file, key_file):
    default = config_writing.default(name, FIELDS[name])
    without_default = FIELDS[name].default is None
    if without_default:
        default = str(key_file(KEY)) if name.endswith("_file") else "sk-1"
    flag = [f"--{name.replace('_', '-')}", default]
    if FIELDS[name].annotation is bool:
        flag = flag[:1] if default == "true" else [f"--no-{flag[0][2:]}"]

    by_flag = loaded(*flag)
    by_variable = loaded(environ={f"GATEWAY_{name.upper()}": default})
    by_file = loaded(config_file=file(f"{name} = {json.dumps(default)}"))

    assert by_flag == by_variable == by_file
    assert by_flag == Settings(**{name: default} if without_default else {})


def test_the_process_environment_is_read_when_no_other_is_given(monkeypatch):
    monkeypatch.setenv("GATEWAY_MAX_LIVE", "11")

    assert load({}).max_live == 11
    assert Settings().max_live == 20000, "made in Python it reads nothing"


def test_an_empty_variable_counts_as_not_set():
    assert loaded(environ={"GATEWAY_OPS_TOKEN": "", "GATEWAY_CONFIG": ""}) == Settings()


def test_variables_that_kubernetes_makes_for_a_service_called_gateway_are_no_settings():
    environ = {
        "GATEWAY_SERVICE_HOST": "10.0.0.7",
        "GATEWAY_SERVICE_PORT_HTTP": "80",
        "GATEWAY_PORT": "tcp://10.0.0.7:80",
        "GATEWAY_PORT_80_TCP_ADDR": "10.0.0.7",
        "GATEWAY_OPS_SERVICE_PORT": "9464",
    }

    assert loaded(environ=environ) == Settings()
    assert complaint(environ={"GATEWAY_PORT": "80"}).startswith("GATEWAY_PORT: no such setting")


def test_a_switch_has_a_flag_for_each_way():
    assert loaded("--ops-content").ops_content is True
    assert loaded("--no-trace-propagation").trace_propagation is False
    assert loaded("--no-ops-content", environ={"GATEWAY_OPS_CONTENT": "true"}).ops_content is False


def test_settings_do_not_change_after_the_start():
    with pytest.raises(ValueError, match="frozen"):
        Settings().linger_s = 1.0


def test_durations_are_seconds_or_have_a_unit():
    for written, seconds in {"0": 0, "0.5": 0.5, "250ms": 0.25, "15s": 15, "5 m": 300, "2h": 7200, "1e3": 1000}.items():
        assert loaded("--linger-s", written).linger_s == seconds


def test_sizes_are_bytes_or_have_a_unit():
    for written, size in {"65536": 65536, "64KiB": 65536, "1.5mib": 1572864, "1 GiB": 2**30}.items():
        assert loaded("--log-limit-bytes", written).log_limit_bytes == size


def test_origins_are_a_list_with_commas_or_an_array_or_a_star(file):
    assert loaded("--cors-origins", "https://a.example, http://LOCALHOST:3000").cors_origins == (
        "https://a.example",
        "http://localhost:3000",
    )
    assert loaded(config_file=file('cors_origins = ["http://[::1]:8000"]')).cors_origins == ("http://[::1]:8000",)
    assert loaded(config_file=file("cors_origins = []")).cors_origins == ()
    assert loaded("--cors-origins", "*").cors_origins == ("*",)
    assert loaded("--cors-origins", "none", environ={"GATEWAY_CORS_ORIGINS": "*"}).cors_origins == ()


def test_a_poll_schedule_is_a_list_with_commas_or_an_array(file):
    assert loaded("--poll-schedule-s", "500ms, 1,1,2").poll_schedule_s == (0.5, 1, 1, 2)
    assert loaded(config_file=file('poll_schedule_s = [1, 2.5, "1m"]')).poll_schedule_s == (1, 2.5, 60)


def test_values_by_model_are_pairs_with_commas_or_a_table_in_the_order_in_which_they_are_tried(file):
    both = (("gpt-5-pro*", 600.0), ("gpt-5*", 90.0))
    table = "[patience_by_model]\n'gpt-5-pro*' = '10m'\n'gpt-5*' = 90"

    assert loaded("--patience-by-model", "gpt-5-pro*=10m, gpt-5*=90").patience_by_model == both
    assert loaded(config_file=file(table)).patience_by_model == both
    assert loaded("--patience-by-model", "none").patience_by_model == ()
    assert Settings(patience_by_model=both).public()["patience_by_model"] == dict(both)


def test_prices_are_three_numbers_by_model_or_a_table_that_names_them(file):
    prices = (("gpt-5*", Price(1.25, 0.125, 10)), ("*", Price(2, 2, 8)))
    table = "[prices]\n'gpt-5*' = {input = 1.25, cached = 0.125, output = 10}\n'*' = '2/2/8'"

    assert loaded("--prices", "gpt-5*=1.25/0.125/10,*=2/2/8").prices == prices
    assert loaded(config_file=file(table)).prices == prices
    assert Settings(prices=prices).public()["prices"] == {"gpt-5*": "1.25/0.125/10", "*": "2/2/8"}
    for bad in ("gpt-5*", "gpt-5*=1", "a=1/2", "a=1/2/x", "a=1/2/-3", "a=1/2/3/4"):
        assert "expected values by model pattern, like gpt-5*=1.25/0.125/10" in complaint("--prices", bad)


def test_an_upstream_keeps_its_path_and_query_and_loses_a_trailing_slash():
    azure = "https://x.openai.azure.com/openai/v1"

    assert loaded("--upstream", f"{azure}/?api-version=preview").upstream == f"{azure}?api-version=preview"
    assert loaded("--upstream", "http://[::1]:9000/").upstream == "http://[::1]:9000"
    assert loaded("--upstream", "https://host/a%2Fb//v1").upstream == "https://host/a%2Fb//v1"


@pytest.mark.parametrize(
    ("written", "address", "loopback"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080), True),
        ("127.8.0.1:0", Address("127.8.0.1", 0), True),
        ("localhost:80", Address("localhost", 80), True),
        ("[::1]:8080", Address("::1", 8080), True),
        ("[::]:8080", Address("::", 8080), False),
        (":8080", Address("", 8080), False),
        ("0.0.0.0:8080", Address("0.0.0.0", 8080), False),
        ("gateway.example:8080", Address("gateway.example", 8080), False),
    ],
)
def test_an_address_is_host_and_port_and_knows_whether_only_this_machine_reaches_it(written, address, loopback):
    listen = loaded("--listen", written).listen

    assert listen == address
    assert listen.is_loopback is loopback
    assert str(listen) == written


def test_a_store_is_a_file_or_memory():
    assert loaded("--store", "sqlite:///responses.db").store.path == Path("responses.db")
    assert loaded("--store", "sqlite:////var/lib/responses.db").store.path == Path("/var/lib/responses.db")
    assert loaded("--store", "memory://").store.path is None


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("redis://host", RedisUrl("server", (("host", 6379),))),
        (
            "rediss://me:p%40ss@[::1]:7000/3?ssl_ca_certs=/ca.pem",
            RedisUrl(
                *("server", (("::1", 7000),), True, None, None, "me", "p@ss", 3, (("ssl_ca_certs", "/ca.pem"),)),
            ),
        ),
        ("valkey://:secret@host", RedisUrl("server", (("host", 6379),), password="secret")),
        (
            "unix:///run/redis.sock?db=2",
            RedisUrl("server", (), path="/run/redis.sock", database=2, options=(("db", "2"),)),
        ),
        (
            "redis+sentinel://:secret@one,two:1/mymaster/4",
            RedisUrl("sentinel", (("one", 26379), ("two", 1)), service="mymaster", password="secret", database=4),
        ),
        ("rediss+cluster://one:1,two", RedisUrl("cluster", (("one", 1), ("two", 6379)), tls=True)),
    ],
)
def test_a_redis_is_a_server_a_master_or_a_cluster(written, parts):
    assert loaded("--store", written).store.kind == "redis"
    assert RedisUrl.parse(written) == parts


def test_a_bad_value_is_named_as_the_user_wrote_it_whichever_place_that_was(file):
    path = file("linger_s = true")

    assert complaint("--linger-s", "-1") == '--linger-s "-1": expected 0 or more seconds, like 0, 0.5, 15s or 5m'
    assert complaint(environ={"GATEWAY_LINGER_S": "soon"}).startswith('GATEWAY_LINGER_S="soon": expected 0 or more')
    assert complaint(config_file=path).startswith(f"linger_s = true in {path}: expected 0 or more")
    assert loaded("--linger-s", "1", config_file=path).linger_s == 1, "a value that nothing uses hurts nobody"


@pytest.mark.parametrize(
    ("flag", "expected", "bad"),
    [
        ("--upstream", "expected an absolute http(s) URL", ["api.openai.com/v1", "ftp://host", "https:///v1"]),
        ("--upstream", "expected an absolute http(s) URL", ["https://host:99999", "https://[::1", "https://host:0"]),
        ("--upstream", "expected an absolute http(s) URL", ["https://h/v 1", "https://h/v1\n", "https://h/v1#top", ""]),
        ("--listen", "expected host:port", ["8080", "localhost", "::1:80", "[x]:80", "10.0.0:80", "localhost:65536"]),
        ("--ops-listen", "expected host:port", ["http://localhost:1"]),
        ("--store", "expected sqlite:///file.db", ["responses.db", "sqlite://responses.db", "sqlite:///"]),
        ("--store", "expected sqlite:///file.db", ["sqlite:///:memory:", "sqlite:///folder/", "memory"]),
        ("--store", "expected host:port", ["redis://", "redis://host:0x", "redis+cluster://a,:1"]),
        ("--store", "expected the number of a database", ["redis://host/db", "redis+sentinel://host/mymaster/db"]),
        ("--store", "expected the path of a socket", ["unix://", "unix://host/redis.sock"]),
        ("--store", "expected one host", ["redis://one,two"]),
        ("--store", "expected the name that Sentinels have", ["redis+sentinel://host"]),
        ("--store", "expected no database", ["redis+cluster://host/1"]),
        ("--store", "expected after the ? only prefix, db", ["redis://host?ssl_cert_reqs=none"]),
        ("--heartbeat-s", "expected seconds above 0", ["0", "inf", "nan", "1e999", "-1", "10 parsecs", "1,5", ""]),
        ("--drain-s", "expected 0 or more seconds", ["-1", "inf"]),
        ("--body-limit-bytes", "expected bytes, like 65536, 64KiB or 64MiB", ["64MB", "0", "0.5", "-1"]),
        ("--max-live", "expected a whole number above 0", ["1.5", "0", "-1", "7d"]),
        ("--poll-budget-per-s", "expected a number above 0", ["0"]),
        ("--poll-jitter", "expected a share from 0 to 1", ["1.1", "-0.1", "10%"]),
        ("--poll-schedule-s", "expected ascending pauses", ["", "1,2,", "4,2,1", "0,1"]),
        ("--cors-origins", "expected origins without path", ["app.example", "https://a.example/", "https://a:443"]),
        ("--cors-origins", "expected origins without path", ["*,https://a", "null", "http://a:80", ",", ""]),
        ("--ticket-s", "expected seconds from 1 to a day", ["0", "0.5", "25h"]),
        (
            "--patience-by-model",
            "expected values by model pattern, like gpt-5*=90",
            ["90", "a=0", "=90", "a=1,", "a=b=c"],
        ),
        ("--log-level", "expected 'debug', 'info', 'warning' or 'error'", ["loud", "INFO"]),
        ("--background-tracking", "expected 'poll' or 'stream'", ["both"]),
    ],
)
def test_a_bad_value_is_refused_with_what_is_accepted(flag, expected, bad):
    for value in bad:
        line = complaint(flag, value)

        assert line.startswith(f"{flag} {json.dumps(value)}: ")
        assert expected in line


@pytest.mark.parametrize(
    ("expected", "texts"),
    [
        ("expected a whole number above 0", ["max_live = true", "max_live = inf", "max_live = [1]"]),
        ("expected true or false", ["ops_content = 3", 'ops_content = "perhaps"']),
        ("expected 'debug', 'info', 'warning' or 'error'", ["log_level = 5"]),
        ("expected an absolute http(s) URL", ["upstream = 5"]),
        ("expected host:port", ["listen = {port = 8080}", "listen = 8080"]),
        ("expected 0 or more seconds", ["linger_s = 2026-01-01"]),
        ("expected origins without path", ["cors_origins = [5]", "cors_origins = true"]),
        ("expected ascending pauses", ["poll_schedule_s = [1, true]", "poll_schedule_s = 5"]),
        (
            "expected values by model pattern",
            ["prices = 5", "[prices]\n'*' = {input = 1}", "[prices]\n'*' = [1, 2, 3]"],
        ),
        ("expected values by model pattern", ["patience_by_model = 90", "[patience_by_model]\n'*' = true"]),
    ],
)
def test_a_value_of_another_type_in_the_file_is_refused(expected, texts, file):
    for text in texts:
        assert expected in complaint(config_file=file(text))


@pytest.mark.parametrize("name", ["upstream_api_key", "ops_token"])
def test_the_value_of_a_secret_is_never_shown(name, file):
    bad = "sk-hidden with a\tblank"

    by_flag = complaint(f"--{name.replace('_', '-')}", bad)
    by_variable = complaint(environ={f"GATEWAY_{name.upper()}": bad})
    by_file = complaint(config_file=file(f"{name} = {json.dumps(bad)}"))

    for line in (by_flag, by_variable, by_file):
        assert "***" in line
        assert "expected visible ASCII" in line
        assert "hidden" not in line


@pytest.mark.parametrize("bad", ["hidden", f"{KEY},hidden", KEY[:-1], f"{KEY}{KEY}", "A" * 42 + "==", ","])
def test_what_is_no_sealing_key_is_refused_and_not_shown(bad, file, key_file):
    listed = json.dumps(bad.split(","))
    lines = {
        "--sealing-keys": complaint("--sealing-keys", bad),
        "GATEWAY_SEALING_KEYS": complaint(environ={"GATEWAY_SEALING_KEYS": bad}),
        "sealing_keys": complaint(config_file=file(f"sealing_keys = {listed}")),
        f"--sealing-key-file {json.dumps(str(key_file(bad)))}": complaint("--sealing-key-file", str(key_file(bad))),
    }
    for place, line in lines.items():
        assert line.startswith(place)
        assert "expected keys of 32 random bytes in base64, as `openssl rand -base64 32` makes them" in line
        assert "hidden" not in line
        assert KEY[:-1] not in line


@pytest.mark.parametrize("number", [5, True, 1.5])
def test_a_sealing_key_is_a_text(number, file):
    assert "expected keys of 32 random bytes" in complaint(config_file=file(f"sealing_keys = {json.dumps(number)}"))


def test_sealing_keys_are_listed_or_in_a_file_the_first_one_seals(file, key_file):
    another = "-_8vL" + KEY[5:]  # base64 has two alphabets
    both = (KEY, another)
    for written in (
        {"environ": {"GATEWAY_SEALING_KEYS": f"{KEY}, {another}"}},
        {"config_file": file(f"sealing_keys = {json.dumps(both)}")},
        {"environ": {"GATEWAY_SEALING_KEY_FILE": str(key_file(f"\n{KEY}\n{another}\n"))}},
    ):
        settings = loaded(**written)
        assert settings.all_sealing_keys == both
        assert KEY not in repr(settings) + json.dumps(settings.public())
    assert loaded("--sealing-keys", KEY).public()["sealing_keys"] == ["***"]
    assert Settings().all_sealing_keys == ()


def test_a_key_file_that_cannot_be_used_is_refused_by_its_name(key_file, tmp_path):
    for path, expected in (
        (tmp_path / "nowhere", "cannot be read (No such file or directory)"),
        (tmp_path, "cannot be read (Is a directory)"),
        (key_file(" \n"), "expected a file of ASCII text that is not empty"),
        (key_file("\xe9"), "expected a file of ASCII text that is not empty"),
    ):
        assert complaint("--sealing-key-file", str(path)) == f"--sealing-key-file {json.dumps(str(path))}: {expected}"


def test_sealing_keys_come_from_one_place(key_file):
    refused = complaint("--sealing-keys", KEY, "--sealing-key-file", str(key_file(KEY)))
    assert refused.endswith(": expected either this or sealing_keys, not both")


def test_a_password_in_a_url_is_never_shown():
    assert complaint("--upstream", "https://me:pass@word@host/v1").startswith('--upstream "https://***@host/v1": ')
    assert "hidden" not in complaint("--store", "redis://:hidden@host/zero")
    shown = loaded("--store", "redis+sentinel://me:hidden@host/mymaster?sentinel_password=hidden").public()["store"]
    assert shown == "redis+sentinel://***@host/mymaster?sentinel_password=***"


def test_secrets_are_redacted_wherever_settings_are_printed():
    settings = loaded("--upstream-api-key", "sk-hidden", "--ops-token", "also-hidden")

    assert settings.upstream_api_key is not None
    assert settings.upstream_api_key.get_secret_value() == "sk-hidden"
    assert settings.public()["ops_token"] == "***"
    assert "hidden" not in repr(settings) + json.dumps(settings.public())
    assert Settings().public()["ops_token"] is None
    with pytest.raises(ValueError, match="ops_token") as refused:
        Settings(ops_token="hid den")
    assert "hid den" not in str(refused.value)


def test_public_settings_are_plain_json_values():
    assert json.loads(json.dumps(Settings().public())) == Settings().public()
    assert Settings().public()["listen"] == "127.0.0.1:8080"


def test_an_unknown_name_is_refused_in_each_place_and_the_nearest_is_offered(file):
    variable = complaint(environ={"GATEWAY_POLL_MAX_AGE": "sk-hidden"})
    key = complaint(config_file=file("poll-max-age-s = 2"))

    assert variable == "GATEWAY_POLL_MAX_AGE: no such setting; did you mean GATEWAY_POLL_MAX_AGE_S?"
    assert key.endswith("gateway.toml: no such setting; did you mean poll_max_age_s?")
    assert complaint(environ={"GATEWAY_upstream": "x"}).endswith("did you mean GATEWAY_UPSTREAM?")
    assert complaint(config_file=file("[gateway]\nlinger_s = 1")).endswith("expected one that serve --help lists")
    assert complaint(config_file=file('"a\\nb" = 1')).startswith("a?b in ")
    with pytest.raises(SettingsError, match=r"^--pol-jitter: no such setting; did you mean --poll-jitter\?$"):
        load({"pol_jitter": "1"}, environ={})
    assert loaded(environ={"OTHER_GATEWAY_THING": "x"}) == Settings()


def test_a_file_that_cannot_be_read_is_named_as_it_was_chosen(file, tmp_path):
    missing = tmp_path / "missing.toml"
    broken = file("linger_s = ")

    assert complaint(config_file=missing).startswith(f"--config {missing}: cannot be read (No such file")
    assert complaint(environ={"GATEWAY_CONFIG": str(missing)}).startswith(f"GATEWAY_CONFIG={missing}: cannot be read")
    assert complaint(config_file=tmp_path).startswith(f"--config {tmp_path}: cannot be read")
    assert complaint(config_file=broken).startswith(f"--config {broken}: not valid TOML (")
    broken.write_bytes(b"\xff\xfe")
    assert complaint(config_file=broken).startswith(f"--config {broken}: not valid TOML (")


def test_a_key_of_the_gateway_is_not_offered_to_a_network():
    key = {"GATEWAY_UPSTREAM_API_KEY": "sk-1"}

    line = complaint("--listen", ":8080", environ=key)

    assert line.startswith('--listen ":8080": clients cannot be authenticated yet')
    assert "sk-1" not in line
    assert loaded("--listen", "[::1]:8080", environ=key).listen.is_loopback
    assert not loaded("--listen", ":8080").listen.is_loopback


def test_operating_from_a_network_needs_a_token():
    assert complaint("--ops-listen", "0.0.0.0:9464").endswith(
        "expected a loopback address, or ops_token to be set as well"
    )
    assert loaded("--ops-listen", "0.0.0.0:9464", "--ops-token", "t").ops_listen.port == 9464


def test_an_owner_is_remembered_at_least_as_long_as_the_response():
    assert complaint("--retention-s", "60d") == (
        '--retention-s "60d": expected tombstone_s (2592000) to be at least retention_s (5184000)'
    )
    assert complaint("--tombstone-s", "1d").startswith('--tombstone-s "1d": expected tombstone_s (86400)')
    assert loaded("--retention-s", "60d", "--tombstone-s", "60d").retention_s == 5184000


def test_no_create_waits_longer_than_the_longest_wait():
    assert complaint("--create-wait-s", "1h") == (
        '--create-wait-s "1h": expected create_wait_s (3600) to be at most create_wait_max_s (600)'
    )
    assert loaded("--create-wait-s", "1h", "--create-wait-max-s", "1h").create_wait_s == 3600


def test_help_tells_meaning_default_and_variable_of_every_setting():
    parser = argparse.ArgumentParser(formatter_class=lambda prog: argparse.HelpFormatter(prog, width=1000))
    add_flags(parser)
    shown = " ".join(parser.format_help().split())

    for name, field in FIELDS.items():
        assert field.description
        assert f"{field.description} (default: {config_writing.default(name, field)}) [GATEWAY_{name.upper()}]" in shown
    assert "--config FILE TOML file [GATEWAY_CONFIG]" in shown


def test_only_flags_that_were_typed_are_settings():
    parser = argparse.ArgumentParser()
    add_flags(parser)

    assert flags_of(parser.parse_args(["--config", "f.toml"])) == {}
    assert flags_of(parser.parse_args(["--max-live", "7"])) == {"max_live": "7"}


def test_the_table_has_a_row_for_every_setting():
    head, _, first, *others = config.table().splitlines()

    assert head == "| flag | variable | default | meaning |"
    assert first.startswith("| `--upstream` | `GATEWAY_UPSTREAM` | https://api.openai.com/v1 | Base URL of the Resp")
    assert len(others) == len(FIELDS) - 1
    assert any(row.startswith("| `--ops-content`, `--no-ops-content` |") for row in others)
    assert all(row.count("|") == 5 for row in others)


def test_the_module_prints_the_table():
    command = [sys.executable, "-m", "gateway.config"]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)

    assert printed.stdout.strip() == config.table()


def test_readme_shows_the_table_of_settings():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    start, end = "<!-- settings -->", "<!-- /settings -->"
    put_it_there = f"put the output of `python -m gateway.config` between {start} and {end} in README.md"

    assert readme.count(start) == readme.count(end) == 1, put_it_there
    assert readme.partition(start)[2].partition(end)[0].strip() == config.table(), put_it_there
