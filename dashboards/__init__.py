"""Dashboards and alerts as code: `python -m dashboards` writes the JSON and the rules that are committed beside it.

Rule: plain dicts in Grafana's classic schema and Prometheus's rule format; nothing here runs in the gateway. A metric,
panel or alert is described once, here: the tables of README are made from it (`uses`).

    panels                           the shapes: one function a kind of panel, the layout, the variables
    overview, background, runtime    the three dashboards
    levels                           service levels: what they are, their targets, their recording rules, their burn
    alert, alerts, collector         what an alert is; the gateway's other ones; those on the Collector
    uses                             what uses which metric, as tables for README

Written by hand: `RUNBOOK.md` (what each alert means), `rules_test/` (promtool: when each fires and not).
"""
