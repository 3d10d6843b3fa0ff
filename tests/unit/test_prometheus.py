"""Metrics for Prometheus: names, kinds and units, and references to them."""

import json
import re

import pytest
import yaml
from programs import ROLES, load

from ksm_analysis.metrics import catalog

FILES = ROLES / "monitor_service/files"
ROOT = ROLES.parent
ksm_prometheus = load(FILES / "ksm_prometheus.py")
METRICS = {metric.name: metric for metric in ksm_prometheus.METRICS}
DASHBOARD = json.loads((FILES / "grafana_dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = yaml.safe_load((FILES / "prometheus_rules.yml").read_text())["groups"][0]["rules"]
SAMPLE = {
    "wall": 1.5,
    "ksm": {
        "run": 1,
        "sleep_millisecs": 20,
        "full_scans": 12,
        "pages_sharing": 977,
        "general_profit": -64,
        "advisor_mode": "[none] scan-time",
    },
    "vmstat": {"cow_ksm": 6},
    "ksmd": {"cpu_ns": 1_500_000_000},
    "guests": {
        'a "b" \\c': {
            "ksm_merging_pages": 40,
            "ksm_process_profit": -6400,
            "ksm_mergeable": "yes",
            "utime": 57,
            "stime": 21,
            "resident_pages": 900,
        },
        "gone": None,
        "old kernel": {"ksm_mergeable": "no", "resident_pages": 1},
    },
    "monitor": {"last_sample": 1.5, "missed": 0},
}


def told(**sections):
    """Return the lines of samples, as name and labels: value."""
    lines = ksm_prometheus.exposition(sections).splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def test_values_in_bytes_and_seconds(monkeypatch):
    monkeypatch.setattr(ksm_prometheus, "PAGE_SIZE", 4096)
    monkeypatch.setattr(ksm_prometheus, "CLOCK_TICKS", 100)
    guest = r'{guest="a \"b\" \\c"}'
    assert told(**SAMPLE) == {
        "ksm_run": "1",
        "ksm_sleep_seconds": "0.02",
        "ksm_full_scans_total": "12",
        "ksm_pages_sharing_bytes": str(977 * 4096),
        "ksm_general_profit_bytes": "-64",
        "ksm_cow_total": "6",
        "ksm_ksmd_cpu_seconds_total": "1.5",
        f"ksm_guest_merging_pages_bytes{guest}": str(40 * 4096),
        f"ksm_guest_process_profit_bytes{guest}": "-6400",
        f"ksm_guest_mergeable{guest}": "1",
        'ksm_guest_mergeable{guest="old kernel"}': "0",
        f"ksm_guest_resident_bytes{guest}": str(900 * 4096),
        'ksm_guest_resident_bytes{guest="old kernel"}': "4096",
        f"ksm_guest_cpu_seconds_total{guest}": "0.78",
        "ksm_monitor_last_sample_timestamp_seconds": "1.5",
        "ksm_monitor_missed_samples_total": "0",
    }


def test_each_family_is_one_block_with_its_help_and_type():
    lines = ksm_prometheus.exposition(SAMPLE).splitlines()
    block = [line for line in lines if "ksm_guest_resident_bytes" in line]
    at = lines.index(block[0])
    assert lines[at : at + len(block)] == block
    assert block[0].startswith("# HELP ksm_guest_resident_bytes Resident memory")
    assert block[1] == "# TYPE ksm_guest_resident_bytes gauge"
    assert "# TYPE ksm_full_scans_total counter" in lines


@pytest.mark.parametrize("value", [None, "many", "5 \\"])
def test_a_value_that_is_not_a_number_is_left_out(value):
    assert told(ksm={"full_scans": value, "run": 0}) == {"ksm_run": "0"}
    assert told(guests={"a": {"utime": 5, "stime": value}}) == {}


def test_no_sections_give_no_metrics():
    assert ksm_prometheus.exposition({}) == ""


def test_a_gauge_below_zero_is_left_out():
    assert told(ksm={"ksm_zero_pages": 2**64 - 3, "run": 0}) == {"ksm_run": "0"}


def test_counters_of_64_bits_stay_exact():
    assert told(ksm={"pages_scanned": 2**64 - 1}) == {"ksm_pages_scanned_total": str(2**64 - 1)}


# The tables of the controller and of the host must agree


def measured():
    """Return metrics of the controller that are the value of a file, or a difference of two."""
    return [
        pytest.param(metric, section, id=metric.name)
        for metrics_, section in ((catalog.HOST, "host"), (catalog.GUEST, "guests"))
        for metric in metrics_
        if metric.kind != "derived" and not metric.beside
    ]


def of_prometheus(metric, section):
    """Return the Prometheus metric of the same file."""
    field = {"ksmd_cpu_seconds": "cpu_ns"}.get(metric.name, metric.name)
    found = [
        each
        for each in METRICS.values()
        if each.source.split(".")[1] == field
        and not each.source.startswith("cgroups.")
        and (each.source[:6] == "guests") == (section != "host")
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(("metric", "section"), measured())
def test_kind_and_unit_match_the_page(metric, section):
    twin = of_prometheus(metric, section)
    assert twin.kind == {"total": "counter"}.get(metric.kind, metric.kind)
    if metric.unit in ("pages", "bytes") and metric.kind == "gauge":
        expected = {"stable_node_dups": ""}.get(metric.name, metric.unit)
        assert twin.unit == expected
        assert twin.name.endswith("_bytes") == bool(expected)
    if metric.unit == "s":
        assert "_seconds" in twin.name


def test_names_have_the_prefix_and_their_unit():
    assert len(METRICS) == len(ksm_prometheus.METRICS)
    for metric in METRICS.values():
        assert re.fullmatch(r"ksm_[a-z_]*[a-z]", metric.name)
        if metric.unit in ("pages", "bytes"):
            assert re.search(r"_bytes$", metric.name)
        if metric.unit in ("ms", "ns", "ticks", "seconds"):
            assert re.search(r"_seconds(_total)?$", metric.name)
        assert metric.source.startswith("guests.") == metric.name.startswith("ksm_guest_")
        assert metric.help.endswith(".")
        assert "\n" not in metric.help


# References to metrics


def names_in(text):
    """Return the names of metrics in an expression, or in a query of a Grafana variable."""
    return set(re.findall(r"\bksm_\w+", text))


def test_the_documentation_lists_all_metrics():
    rows = re.findall(
        r"^\| `(ksm_\w+)` \| (.*) \|$", (ROOT / "docs/monitoring.md").read_text(), re.M
    )
    assert rows == [(metric.name, metric.help) for metric in METRICS.values()]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: f"{panel['id']}-{panel['title']}")
def test_a_panel_shows_metrics_that_exist_with_unit_and_description(panel):
    for target in panel["targets"]:
        assert names_in(target["expr"])
        assert names_in(target["expr"]) <= METRICS.keys()
        assert (
            target["datasource"]
            == panel["datasource"]
            == {
                "type": "prometheus",
                "uid": "${datasource}",
            }
        )
        for name in names_in(target["expr"]):
            assert (f"rate({name}" in target["expr"]) == (METRICS[name].kind == "counter")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["description"].endswith(".")


def test_the_dashboard_has_a_choice_of_source_hosts_and_guests():
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert [variables[name]["type"] for name in ("datasource", "host", "guest")] == [
        "datasource",
        "query",
        "query",
    ]
    for name in ("host", "guest"):
        assert names_in(variables[name]["definition"]) <= METRICS.keys()
        assert variables[name]["query"]["query"] == variables[name]["definition"]


def test_panels_do_not_overlap():
    taken = {}
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        for x in range(grid["x"], grid["x"] + grid["w"]):
            for y in range(grid["y"], grid["y"] + grid["h"]):
                assert taken.setdefault((x, y), panel["id"]) == panel["id"]
                assert x < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_is_on_metrics_that_exist(rule):
    assert names_in(rule["expr"])
    assert names_in(rule["expr"]) <= METRICS.keys()


def test_saved_memory_includes_zero_pages_where_the_kernel_counts_them():
    (saved,) = [panel for panel in PANELS if panel["title"] == "Saved"]
    (nothing,) = [rule for rule in RULES if rule["alert"] == "KsmdBusyForNothing"]
    host = '{instance=~"$host"}'

    assert saved["targets"][0]["expr"] == (
        f"sum(ksm_pages_sharing_bytes{host} + ksm_zero_pages_bytes{host} "
        f"or ksm_pages_sharing_bytes{host})"
    )
    # promtool evaluates it: tests/host/prometheus_rules_test.yml
    assert (
        "(ksm_pages_sharing_bytes + ksm_zero_pages_bytes or ksm_pages_sharing_bytes)"
        in nothing["expr"]
    )
