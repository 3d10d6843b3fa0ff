"""The live page: what it shows of a launch, and a real server beside results that grow."""

import json
import re
import shutil
import socket
import tarfile
import time
import urllib.error
import urllib.request
from itertools import pairwise
from pathlib import Path

import pytest

from ksm_analysis.__main__ import main
from ksm_analysis.live import site, state
from ksm_analysis.live.serving import Serving

ARCHIVE = Path(__file__).parents[2] / "docs/results/scan-rates.tar.xz"
RUNS = ("p004-k1-idle-r1", "p004-k3-idle-r1")
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def notice(event, host="lab", left=60.0, at=1000.0, **values):
    return {"event": event, "host": host, "time": at, "left": left, **values}


def plan(*runs):
    return notice("plan", None, plan={"experiment": "quick", "runs": [*runs]}, hosts=["lab"])


def started(run="r1", index=1, of=2):
    return notice("run started", run=run, index=index, of=of, factors={"guests": 2})


def sample(seconds, pages, run="r1", **values):
    counters = {"pages_sharing": pages, "page_size": 4096, "full_scans": 1}
    return notice("sampling", run=run, seconds=seconds, of=60.0, **counters, **values)


def ended(run="r1", status="complete", reason=""):
    return notice("run ended", run=run, status=status, reason=reason)


def shown(*notices, now=1000.0):
    made = state.State("quick")
    for each in notices:
        made.take(each)
    return made.shown(now)


# --- what is shown --------------------------------------------------------------------------------


def test_a_run_that_goes_has_its_savings_over_time():
    phase = notice("phase", run="r1", phase="sampling")
    found = shown(plan("r1", "r2"), started(), phase, sample(0.0, 0), sample(2.0, 256), now=1010.0)

    assert found["head"] == "0 of 2 runs ended; about 50 s left"
    ((host, line),) = found["hosts"]
    assert host == "lab"
    assert line.startswith("run 1 of 2: 2 guests · sampling 2 of 60 s, 1 scans, pages_sharing 256")
    (curve,) = found["curves"]
    assert (curve["now"], curve["points"]) == (True, [(0.0, 0.0), (2.0, 1.0)])


def test_zero_pages_are_savings_too():
    found = shown(plan("r1"), started(), sample(0.0, 256, ksm_zero_pages=512))
    assert found["curves"][0]["points"] == [(0.0, 3.0)]


def test_runs_that_have_ended_stay_with_their_reason():
    failed = ended("r2", "failed", "no space left")
    found = shown(plan("r1", "r2", "r3"), started(), sample(0.0, 1), ended(), started("r2"), failed)

    assert found["head"].startswith("2 of 3 runs ended, 1 failed")
    assert found["runs"] == [("r1", "complete", ""), ("r2", "failed", "no space left")]
    assert [curve["now"] for curve in found["curves"]] == [False]


def test_of_many_runs_the_last_and_the_failed_are_listed():
    many = [ended(f"r{n}", "failed" if n < 300 else "complete") for n in range(5000)]
    found = shown(plan("r1"), *many)

    first = 300 - state.FAILED
    numbers = [*range(first, 300), *range(5000 - state.LAST, 5000)]
    assert [run for run, *_ in found["runs"]] == [f"r{n}" for n in numbers]
    assert (found["ended"], found["unlisted"]) == (5000, 5000 - len(numbers))
    assert found["unlisted_failed"] == first


def test_before_the_plan_no_time_has_passed():
    assert shown(now=1e9)["elapsed"] == 0
    assert shown(notice("message", None, text="a moment"), now=1e9)["elapsed"] == 0
    assert shown(plan("r1"), now=1007.0)["elapsed"] == 7


def test_a_long_run_has_fewer_points_from_its_beginning_to_its_end():
    samples = (sample(float(n), n) for n in range(10 * state.MOST_POINTS))
    (curve,) = shown(plan("r1"), started(), *samples)["curves"]
    seconds = [point[0] for point in curve["points"]]

    assert state.MOST_POINTS / 2 < len(seconds) <= state.MOST_POINTS
    assert seconds[0] == 0
    assert seconds[-1] > 9.9 * state.MOST_POINTS
    assert len({b - a for a, b in pairwise(seconds)}) == 1


def test_the_end_is_said():
    found = shown(plan("r1"), started(), ended(), notice("end", None, exit=0))

    assert found["over"]
    assert found["hosts"] == []
    assert found["head"] == "The experiment has ended: 1 of 1 run ended"


# --- the server -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Unpack results that come with the documents."""
    directory = tmp_path_factory.mktemp("archive")
    with tarfile.open(ARCHIVE) as packed:
        packed.extractall(directory, filter="data")
    return directory / "scan-rates"


class Server:
    """A server beside results that grow."""

    def __init__(self, serving, results, directory):
        self.serving, self._results, self.directory = serving, results, directory

    def ask(self, path="", **headers):
        """Return status and text."""
        asked = urllib.request.Request(self.serving.url + path, headers=headers)
        try:
            with DIRECTLY.open(asked, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def state(self):
        return json.loads(self.ask("state")[1])

    def until(self, condition):
        """Ask until the state is as expected: with a page open, figures are made."""
        deadline = time.monotonic() + 120
        while not condition(found := self.state()):
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        return found

    def end_run(self, run):
        """Let a run appear, as it does when it was collected."""
        shutil.copytree(self._results / run, self.directory / run)
        self.serving.tell(ended(run))


@pytest.fixture
def server(results, tmp_path):
    with Serving(tmp_path, 0) as serving:
        serving.tell(plan(*RUNS))
        yield Server(serving, results, tmp_path)
    with pytest.raises(urllib.error.URLError, match="refused"):
        DIRECTLY.open(serving.url)


def test_the_page_grows_and_becomes_the_report(server):
    server.until(lambda found: "of 2 runs" in found["head"])
    first = server.ask()[1]
    server.serving.tell(started(RUNS[0]))
    server.serving.tell(sample(1.0, 10))
    assert server.until(lambda found: found["curves"])["version"] == "0"
    (server.directory / "p004-k2-idle-r1").mkdir()
    (server.directory / "p004-k2-idle-r1/run.json").write_text("damaged")
    server.end_run(RUNS[0])
    server.until(lambda found: found["version"] == "1")
    second = server.ask()[1]
    before = {path: path.stat().st_mtime_ns for path in server.directory.rglob("*")}

    assert "There are no figures yet." in first
    assert f"</small>{server.directory.name}</h1>" in first
    assert '<section id="summary">' not in first
    assert "connect-src 'self'" in second
    assert f'<th scope="row">{RUNS[0]}</th>' in second
    assert "p004-k2-idle-r1: left out" in second
    assert " are missing" not in second
    assert before == {path: path.stat().st_mtime_ns for path in server.directory.rglob("*")}

    report = server.directory / "report.html"
    report.write_text("<p>the report")
    server.serving.tell(notice("report", None, path=str(report)))
    server.serving.tell(notice("end", None, exit=0))
    server.until(lambda found: found["version"] == site.DONE)
    assert server.ask()[1] == "<p>the report"
    report.unlink()
    assert "The experiment has ended" in server.ask()[1]


def test_what_cannot_be_shown_is_said_and_the_rest_goes_on(server):
    (server.directory / "bad").mkdir()
    (server.directory / "bad/run.json").write_text('{"format": 99}')
    server.serving.tell(ended("bad", "failed", "damaged"))
    server.until(lambda found: found["version"] == "1")
    server.serving.tell(notice("message", text="it goes on"))

    assert server.until(lambda found: found["messages"])["messages"] == ["it goes on"]
    assert server.ask()[0] == 200


@pytest.mark.parametrize(("limit", "unit"), [("MOST", "runs"), ("MOST_BYTES", "MiB of samples")])
def test_figures_of_too_much_come_with_the_report(limit, unit, results, tmp_path, monkeypatch):
    """What was read is in memory, perhaps on the host that is measured."""
    shutil.copytree(results / RUNS[0], tmp_path / RUNS[0])
    made = site.Site(tmp_path)
    assert made._figures_now()[1] == ""
    assert made._runs
    size = (tmp_path / RUNS[0] / "samples.jsonl").stat().st_size
    monkeypatch.setattr(site, limit, {"MOST": 1, "MOST_BYTES": 2 * size - 1}[limit])
    assert made._figures_now()[1] == ""

    shutil.copytree(results / RUNS[1], tmp_path / RUNS[1])
    (tmp_path / RUNS[1] / "samples.jsonl").write_bytes(b"x" * size)
    figures, problem = made._figures_now()
    assert figures == {}
    assert problem.endswith(f" {unit} come with the report")
    assert not made._runs


def test_nothing_else_is_served_nor_by_another_name(server):
    """A page of elsewhere, whose name leads here, could otherwise read this one."""
    for name in ("evil.example", "evil.example:80", "localhost.evil.example", ""):
        assert server.ask(Host=name)[0] == server.ask("state", Host=name)[0] == 421
    assert server.ask("state", Host="localhost:9")[0] == 200
    (server.directory / "secret").write_text("secret")
    host, port = re.search(r"//(.*):(\d+)/", server.serving.url).groups()
    answers = []
    for path in ("/secret", "/../secret", "//etc/passwd", "/%2e%2e/etc/passwd", "/state/.."):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            answers.append(connection.makefile("rb").read())
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /state HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        posted = connection.makefile("rb").read()

    assert {answer.split()[1] for answer in answers} == {b"404"}
    assert posted.split()[1] == b"501"


def test_a_server_that_was_killed_does_not_stop_the_launch(results, tmp_path):
    with Serving(tmp_path, 0) as serving:
        serving._process.kill()
        serving._process.wait()
        for _ in range(10):
            serving.tell(plan(*map(str, range(10_000))))


# --- the command line -----------------------------------------------------------------------------


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path, capsys):
    file = tmp_path / "quick.yml"
    file.write_text("guests: {count: 1}\nsampling: {interval: 1, intervals: 2}\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status = main(["run", str(file), "--results", str(tmp_path / "results"), "--serve", port])

    assert status == 2
    assert capsys.readouterr().err == (
        f"--serve {port}: port {port} of 127.0.0.1: Address already in use\n"
    )
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("port", ["65536", "-1", "x.yml"])
def test_a_wrong_port_is_refused(port, capsys):
    with pytest.raises(SystemExit):
        main(["run", "quick.yml", f"--serve={port}"])
    assert f"{port} is not a port from 0 to 65535; FILE comes first" in capsys.readouterr().err
