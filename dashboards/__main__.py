"""`python -m dashboards`: write the dashboards and the rules, here (and README's tables) or for other places."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from dashboards import alerts, levels
from dashboards.uses import DASHBOARDS, alert_table, level_table, uses
from gateway.telemetry.catalogue import table

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
GRAFANA = "http://localhost:3000"
RUNBOOK = "dashboards/RUNBOOK.md"
_HEAD = "# Written by `python -m dashboards`; change that, not this.\n"


class _Dumper(yaml.SafeDumper):
    """Text of several lines as a block, and no line folded."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def files(grafana: str = GRAFANA, runbook: str = RUNBOOK) -> dict[str, str]:
    """What is written, by file name. `grafana`, `runbook`: the URLs that the alerts' links begin with."""
    rules: dict[str, Any] = {"groups": [*levels.groups(), alerts.group(grafana, runbook)]}
    written = yaml.dump(rules, Dumper=_Dumper, sort_keys=False, width=10**6, allow_unicode=True)
    shown = {
        f"{name}.json": json.dumps(dashboard.json(), indent=2, ensure_ascii=False) + "\n"
        for name, dashboard in DASHBOARDS.items()
    }
    return {**shown, "rules.yml": _HEAD + written}


def with_tables(readme: str) -> str:
    """README with the tables of metrics, service levels and alerts as they are."""
    for name, rows in (("metrics", table(uses())), ("levels", level_table()), ("alerts", alert_table())):
        before, start, rest = readme.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        readme = f"{before}{start}{rows}{end}{after}"
    return readme


def main() -> None:
    """Write them all."""
    parser = argparse.ArgumentParser(prog="python -m dashboards", description=__doc__)
    parser.add_argument("--to", type=Path, default=HERE, metavar="FOLDER", help="where to write (default: here)")
    parser.add_argument("--grafana", default=GRAFANA, metavar="URL", help="your Grafana (default: %(default)s)")
    parser.add_argument("--runbook", default=RUNBOOK, metavar="URL", help="your RUNBOOK.md (default: %(default)s)")
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    for name, content in files(arguments.grafana.rstrip("/"), arguments.runbook).items():
        (arguments.to / name).write_text(content, encoding="utf-8")
        sys.stdout.write(f"{arguments.to / name}\n")
    if arguments.to == HERE:
        README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
