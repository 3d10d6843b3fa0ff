"""The metrics of the monitor through node_exporter, Prometheus, alerts and the dashboard.

Everything is real and on the loopback: a process of another user instead of a guest, the service
with only the capability that its unit grants, Debian's node_exporter and Prometheus. KSM is not
changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml
from machine import until

from ksm_analysis.__main__ import main
from ksm_analysis.results.reader import read_results

pytestmark = [pytest.mark.host, pytest.mark.beside]
ROOT = Path(__file__).parents[2]
FILES = ROOT / "roles/monitor_service/files"
SAMPLER = ROOT / "roles/part_sampler/files/ksm_sampler.py"
DASHBOARD = json.loads((FILES / "grafana_dashboard.json").read_text())
QUESTIONS = [
    pytest.param(target["expr"], id=f"{panel['id']}-{target['refId']}")
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
]
CAPABILITY = "-all,+dac_read_search"
NOBODY, OTHER = 65534, 64055


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """Return a function that returns the path of a Debian program.

    Missing packages are only unpacked: if they were installed, their services would start.
    """
    directory = tmp_path_factory.mktemp("tools")

    def unpack(package):
        subprocess.run(["apt-get", "download", "-q", package], cwd=directory, check=True)
        (deb,) = directory.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "--extract", deb, directory], check=True)

    def program(name, package):
        if found := shutil.which(name):
            return found
        if not (directory / "usr/bin" / name).exists():
            subprocess.run(["apt-get", "update", "-q"], check=True)
            unpack(package)
        return str(directory / "usr/bin" / name)

    return program


@pytest.fixture(scope="module")
def promtool(tools):
    return tools("promtool", "prometheus")


@contextlib.contextmanager
def running(*command, **options):
    """Run a process; show its output if it fails."""
    process = subprocess.Popen([*map(str, command)], stdin=subprocess.PIPE, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


@pytest.fixture(scope="module")
def place():
    """Make the directories of the role, where other users can pass, unlike in those of pytest."""
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        base.chmod(0o755)
        for name in ("state", "domains", "collector", "program"):
            (base / name).mkdir()
        for program in (*FILES.glob("*.py"), SAMPLER):
            shutil.copy(program, base / "program")
        os.chown(base / "state", NOBODY, NOBODY)
        (base / "collector/ksm.prom").symlink_to(base / "state/ksm.prom")
        yield base


@pytest.fixture(scope="module")
def guest(place):
    """Run a process of another user that looks like a guest."""
    command = ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups"]
    argv = ["/usr/bin/python3", "-c", "input()", "-name", 'guest=a "b",debug-threads=on']
    with running(*command, *argv) as process:
        (place / "domains/a &quot;b&quot;.pid").write_text(f"{process.pid}\n")
        until(lambda: Path(f"/proc/{process.pid}").stat().st_uid == OTHER)
        yield process


@pytest.fixture(scope="module")
def service(place, guest):
    """Run the service as its own user, with only the capability that its unit grants."""
    privileges = [f"--{kind}={CAPABILITY}" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *privileges]
    argv = ["/usr/bin/python3", "-EsB", place / "program/ksm_monitor.py", "--period", 0.5]
    argv += ["--state", place / "state", "--domains", place / "domains"]
    with running(*command, "--no-new-privs", *argv) as process:
        until((place / "state/ksm.prom").exists)
        yield process


@pytest.fixture(scope="module")
def exporter(tools, service, place):
    """Run node_exporter on the directory with the link to the metrics; yield its address."""
    address = f"127.0.0.1:{free_port()}"
    program = tools("prometheus-node-exporter", "prometheus-node-exporter")
    collectors = ["--collector.disable-defaults", "--collector.textfile", "--collector.ksmd"]
    directory = f"--collector.textfile.directory={place / 'collector'}"
    listen = f"--web.listen-address={address}"
    with running(program, *collectors, directory, listen, "--log.level=error"):
        until(lambda: get(f"http://{address}/metrics"))
        yield address


@pytest.fixture(scope="module")
def server(tools, promtool, exporter, tmp_path_factory):
    """Run Prometheus on node_exporter; yield its URL."""
    directory, address = tmp_path_factory.mktemp("prometheus"), f"127.0.0.1:{free_port()}"
    jobs = [{"job_name": "node", "static_configs": [{"targets": [exporter]}]}]
    settings = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    rules = [str(FILES / "prometheus_rules.yml")]
    config = {"global": settings, "scrape_configs": jobs, "rule_files": rules}
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [tools("prometheus", "prometheus"), f"--config.file={directory}/prometheus.yml"]
    command += [f"--storage.tsdb.path={directory}/data", f"--web.listen-address={address}"]
    with running(*command, "--log.level=error"):
        yield f"http://{address}"


@pytest.fixture(scope="module")
def ask(server):
    """Return a function that queries Prometheus; wait until it has some values."""

    def query(expression):
        question = urllib.parse.urlencode({"query": expression})
        answer = json.loads(get(f"{server}/api/v1/query?{question}"))
        assert answer["status"] == "success"
        return answer["data"]["result"]

    until(lambda: query("count_over_time(ksm_run[1m]) >= 5"))
    return query


def test_promtool_accepts_the_metrics(promtool, place, service):
    text = (place / "state/ksm.prom").read_text()
    assert 'ksm_guest_rmap_items{guest="a \\"b\\""}' in text
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_promtool_rejects_wrong_metrics(promtool):
    """Without this, the test above might never fail."""
    text = "# TYPE ksm_full_scans counter\nksm_full_scans 1\n"
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert done.returncode != 0


def test_the_service_has_only_that_capability(service):
    status = Path(f"/proc/{service.pid}/status").read_text()
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert {fields[f"Cap{kind}"] for kind in ("Eff", "Prm", "Bnd")} == {f"{1 << 2:016x}"}
    assert fields["Uid"].split() == [str(NOBODY)] * 4


def test_values_match_the_kernel(place, service, guest):
    fields = dict(
        line.replace(":", "").split()
        for line in Path(f"/proc/{guest.pid}/ksm_stat").read_text().splitlines()
    )
    text = (place / "state/ksm.prom").read_text()
    for name in ("merging_pages", "process_profit"):
        factor = os.sysconf("SC_PAGE_SIZE") if name == "merging_pages" else 1
        value = int(fields[f"ksm_{name}"]) * factor
        assert f'ksm_guest_{name}_bytes{{guest="a \\"b\\""}} {value}\n' in text
    resident = int(Path(f"/proc/{guest.pid}/statm").read_text().split()[1])
    assert f'resident_bytes{{guest="a \\"b\\""}} {resident * os.sysconf("SC_PAGE_SIZE")}\n' in text
    # What it read last may be old already, if others change the knobs.
    for name in ("run", "pages_to_scan"):
        until(
            lambda name=name: (
                f"\nksm_{name} {knob(name)}\n" in (place / "state/ksm.prom").read_text()
            )
        )


def knob(name):
    return int(Path(f"/sys/kernel/mm/ksm/{name}").read_text())


def test_node_exporter_exports_the_metrics_with_its_own(exporter, place):
    text = get(f"http://{exporter}/metrics")
    told = (place / "state/ksm.prom").read_text()
    names = {line.split()[2] for line in told.splitlines() if line.startswith("# TYPE")}
    assert names <= {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert "node_ksmd_pages_sharing" in text
    assert "node_textfile_scrape_error 0" in text


@pytest.mark.parametrize("expression", QUESTIONS)
def test_each_question_of_the_dashboard_has_an_answer(ask, expression):
    for name, value in (("$host", ".*"), ("$guest", ".*"), ("$__rate_interval", "1m")):
        expression = expression.replace(name, value)
    assert "$" not in expression
    answer = ask(expression)
    assert answer
    for one in answer:
        assert one["value"][1] not in ("NaN", "+Inf", "-Inf")


def test_the_dashboard_finds_hosts_and_guests(ask, exporter):
    assert [one["metric"]["instance"] for one in ask("ksm_page_size_bytes")] == [exporter]
    found = ask('ksm_guest_resident_bytes{instance=~".*"}')
    assert [one["metric"]["guest"] for one in found] == ['a "b"']


@pytest.mark.parametrize(
    ("queries", "source"),
    [
        ((), "node_ksmd_{}"),
        (('{__name__=~"node_ksmd_.+"}',), "node_ksmd_{}"),
        (
            (
                "run=max(ksm_run)",
                "pages_to_scan=max(ksm_pages_to_scan)",
                "full_scans=max(ksm_full_scans_total)",
            ),
            "ksm_{}",
        ),
    ],
    ids=["all", "node_exporter", "expressions"],
)
def test_a_range_becomes_a_run(ask, server, tmp_path, queries, source):
    # Compared with what Prometheus has at that time, because others may change KSM meanwhile.
    end = int(time.time()) - 2
    options = ["--start", str(end - 4), "--end", str(end), "--step", "1"]
    options += [word for query in queries for word in ("--query", query)]
    directory = tmp_path / "imported"
    done = ["import", "--from", "prometheus", server, "--results", str(directory), *options]
    assert main(done) == 0
    runs = read_results(directory).runs
    found = {name: run.samples[name].iloc[-1] for run in runs for name in run.samples}
    for name in ("run", "pages_to_scan") if queries else ("run", "pages_to_scan", "pages_sharing"):
        (told,) = ask(f"{source.format(name)} @ {end}")
        assert found[f"ksm.{name}"] == float(told["value"][1])
    assert all(2 <= len(run.samples) <= 5 for run in runs)
    assert all(run.record.started > time.time() - 60 for run in runs)
    if not queries:
        assert [run.header["page_size"] for run in runs] == [os.sysconf("SC_PAGE_SIZE")]


def test_an_expression_that_prometheus_refuses(server, tmp_path, capsys):
    words = ["import", "--from", "prometheus", server, "--results", str(tmp_path / "none")]
    assert main([*words, "--query", "ksm_run{"]) == 2
    assert "parse error" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_rules_are_well_formed(promtool):
    rules = FILES / "prometheus_rules.yml"
    done = subprocess.run([promtool, "check", "rules", rules], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_only_when_they_should(promtool):
    done = subprocess.run(
        [promtool, "test", "rules", Path(__file__).with_name("prometheus_rules_test.yml")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_ended_guest_disappears_and_an_ended_service_is_noticed(ask, place, guest, service):
    """Must be the last test here: it ends the processes of the others."""
    guest.kill()
    guest.wait()
    until(lambda: not ask("ksm_guest_resident_bytes"))
    assert ask("ksm_pages_sharing_bytes")
    service.terminate()
    assert service.wait(60) == 0
    until(lambda: not ask("ksm_pages_sharing_bytes"))
    (age,) = ask("time() - ksm_monitor_last_sample_timestamp_seconds")
    assert 0 < float(age["value"][1]) < 60
