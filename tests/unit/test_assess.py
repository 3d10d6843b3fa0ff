"""`assess`: what is read of real memory, and what is forecast of known contents."""

import itertools
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from programs import ROLES

from ksm_analysis.__main__ import main
from ksm_analysis.assess import assessment, forecast, page, population, seen, settings, words
from ksm_analysis.assess.population import Churn, Population
from ksm_analysis.commands import assess as command
from ksm_analysis.errors import InputError
from ksm_analysis.simulator.ksmd import KNOBS, Costs

PROGRAM = ROLES / "assess/files/ksm_assess.py"
BESIDE = [str(ROLES / name) for name in ("part_census/files", "doctor/files")]
# A process that is not offered to KSM: 600 pages in all processes, 300 zeros, 124 of its own, of
# which it writes the first 50 all the time.
HOLDS = """
import mmap, os, struct, sys, time
memory = mmap.mmap(-1, 5120 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
page = lambda who, n: struct.pack("<II", who, n) * 512
for n in range(5120):
    of = page(0, n + 1) if n < 600 else bytes(4096) if n < 900 else page(os.getpid(), n)
    memory[n * 4096 : n * 4096 + 4096] = of
print("ready", flush=True)
n = 0
while True:
    n += 1
    for at in range(900, 950):
        memory[at * 4096 : at * 4096 + 4096] = page(os.getpid(), n * 5120 + at)
    time.sleep(0.01)
"""


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Let no simulation be cut short on a slow machine."""
    monkeypatch.setattr(settings, "PATIENCE", 3600)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Read two processes for some seconds; return the file."""
    processes = [
        subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE) for _ in range(2)
    ]
    try:
        for each in processes:
            each.stdout.readline()
        pids = [f"--guest={each.pid}" for each in processes]
        done = run("--seconds", "4", "--as-if-mergeable", *pids)
    finally:
        for each in processes:
            each.kill()
            each.wait()
            each.stdout.close()
    assert done.returncode == 0, done.stderr
    path = tmp_path_factory.mktemp("assess") / "lab.assess"
    path.write_text(done.stdout)
    return path


def run(*arguments, before=()):
    """Run the program of the host."""
    return subprocess.run(
        [*before, sys.executable, str(PROGRAM), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(BESIDE)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


# --- what is read ---------------------------------------------------------------------------------


def test_contents_are_read_as_they_are(kept):
    told = seen.load(kept)
    big = [np.flatnonzero(told.owner == n) for n in range(2)]
    # the memory above is the only one with so many zeros, and what both have is in it
    one, other = (told.contents[-1][at] for at in big)
    assert all(np.count_nonzero(each == 0) >= 300 for each in (one, other))
    assert len(np.intersect1d(one[one > 0], other[other > 0])) >= 600
    assert len(told.moments) == 4
    found = population.of(told)
    assert all(50 <= np.count_nonzero(found.hot[at]) < 150 for at in big)
    assert all(each.rate < 0.002 for each in found.churn)
    # most of them changed before the second moment, which is the later the slower memory is read
    assert all(each.hot_rate * told.seconds[1] > 1 for each in found.churn)


def test_the_assessment_of_what_was_read(kept, capsys, monkeypatch):
    monkeypatch.setattr(settings, "PATIENCE", 0.3)
    assert main(["assess", "--from", str(kept), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["hosts"].values()
    # 600 pages once, and 600 zeros on three frames; what the interpreters have is more
    freed = found["freed"]
    assert (600 + 597) * 4096 <= freed["merged"] + freed["zeros"] <= (600 + 597 + 3000) * 4096
    assert freed["low"] < freed["net"] < freed["high"]
    assert len(found["settings"]) == len(settings.OFFER)
    assert found["pairs"][0]["bytes"] >= 2 * 600 * 4096
    text = page.page("lab", found)
    assert "KSM would free" in text
    assert "://" not in text
    command.show("lab", found)
    assert "KSM would free" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "before", "why"),
    [
        (("--guest=nobody",), (), "no guest or process named nobody offers memory to KSM"),
        (("--as-if-mergeable", "--guest=nobody"), (), "no guest or process named nobody"),
        (
            (),
            ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"),
            "this needs root with CAP_SYS_ADMIN",
        ),
    ],
)
def test_a_host_that_cannot_be_read_says_why_at_once(arguments, before, why):
    done = run("--seconds", "3600", *arguments, before=before)
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr


def test_what_takes_too_much_memory_is_not_read():
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            own = f"--guest={process.pid}"
            done = run("--seconds=3600", "--as-if-mergeable", own, "--memory=0.1")
        finally:
            process.kill()
    assert done.returncode == 2
    assert "the ceiling is 0.1 MiB: choose fewer with --guest, or raise --memory" in done.stderr


def test_the_kernel_keeps_it_below_the_ceiling():
    words = "import ksm_assess, sys; ksm_assess.keep_below(1); print(len(bytes(int(sys.argv[1]))))"
    path = os.pathsep.join([str(PROGRAM.parent), *BESIDE])
    for size, fits in ((2**20, True), (2**27, False)):
        argv = [sys.executable, "-c", words, str(size)]
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
        assert done.stdout == f"{size}\n" * fits
        assert ("MemoryError" in done.stderr) != fits


RESERVES = """
import mmap, time
memory = mmap.mmap(-1, 2**33, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 0)
held = bytes([1]) * (24 << 20)
print("ready", flush=True)
time.sleep(3600)
"""


def test_reserved_memory_is_not_read_and_it_ends_when_nobody_listens():
    """8 GiB of address space would take 112 MiB; between two moments, nothing is written."""
    with subprocess.Popen([sys.executable, "-c", RESERVES], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        options = ["--seconds=3600", "--as-if-mergeable", f"--guest={process.pid}", "--memory=20"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(BESIDE)}
        argv = [sys.executable, str(PROGRAM), *options]
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdout=pipe, stderr=pipe, env=environment) as reader:
            try:
                told = [json.loads(line)["kind"] for line in itertools.islice(reader.stdout, 2)]
                while told.count("moment") < 2:
                    told.append(json.loads(reader.stdout.readline())["kind"])
                reader.stdout.close()
                assert reader.wait(60) == 1
            finally:
                reader.kill()
                process.kill()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text[: len(text) // 2], "not what `assess` has kept"),
        (lambda text: text[: text.rindex('{"kind":"end"')], "is cut short"),
        (lambda text: text.replace('"format":1,"facts"', '"format":9,"facts"', 1), "version"),
        (lambda text: "", "not what `assess` has kept"),
        (lambda text: text + "5\n", "not what `assess` has kept"),
        (lambda text: text + "null\n", "not what `assess` has kept"),
        (lambda text: text.replace('"hz":', '"gz":', 1), "hz"),
        (lambda text: text.replace('"complaints":', '"praise":', 1), "complaints"),
        (
            lambda text: re.sub(r'"pages":\d+,"same"', '"pages":99999999999999,"same"', text),
            "pages",
        ),
    ],
)
def test_a_file_that_is_not_whole_is_refused(kept, tmp_path, change, why):
    (tmp_path / "bad.assess").write_text(change(kept.read_text()))
    with pytest.raises(InputError, match=why):
        seen.load(tmp_path / "bad.assess")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--from", "missing"),
        ("--from", "x", "--host", "lab"),
        ("--from", "x", "--guest", "web"),
        ("--from", "x", "--memory", "9"),
        ("--html", ""),
        ("--html", "/missing/page"),
    ],
)
def test_wrong_arguments(arguments, capsys):
    assert main(["assess", *arguments]) == 2
    assert arguments[0] in (said := capsys.readouterr().err) or "missing" in said


# --- what is forecast -----------------------------------------------------------------------------


def people(rest, owner, churn=None, split=None, given_up=0):
    """Make a population."""
    size = max(owner) + 1
    return Population(
        [f"p{n}" for n in range(size)],
        np.array(owner, np.int32),
        np.array(rest, np.int32),
        np.zeros(len(rest), bool),
        np.array(split if split is not None else [False] * len(rest)),
        [churn or Churn(0, 0, 0, 0, 0)] * size,
        [0.0] * size,
        np.full(size, given_up, np.int64),
    )


def test_the_limit_is_counted():
    #        a: 0 0 1 1 2 5   b: 0 1 2 3 -  ; zeros on one frame, 1 thrice, 2 twice
    found = people([0, 0, 1, 1, 2, 5, 0, 1, 2, 3, -1], [0] * 6 + [1] * 5)
    limit = forecast.limit(found, KNOBS)
    assert (limit.pages, limit.merged, limit.zeros) == (10, 3, 2)
    assert limit.pairs.tolist() == [[2, 3], [2, 0]]
    a, b = limit.guests
    assert (a.alone + b.alone, a.alone - b.alone) == (3, pytest.approx(1 + 2 / 3))
    assert sum(each.freed for each in limit.guests) == pytest.approx(5)
    given = forecast.limit(found, {**KNOBS, "use_zero_pages": 1})
    assert (given.merged, given.zeros) == (3, 3)
    short = forecast.limit(found, {**KNOBS, "max_page_sharing": 2})
    assert (short.merged, short.zeros) == (2, 1)


def test_zeros_of_huge_pages_are_given_up():
    limit = forecast.limit(people([0, 0, 1, 1], [0] * 4, split=[True, True, False, False]), KNOBS)
    assert (limit.merged, limit.zeros, limit.split_zeros) == (1, 0, 2)


@pytest.mark.parametrize("knob", [0, 1])
def test_what_is_given_up_already_counts_everywhere(knob):
    found = people([*range(1, 1001)] * 2, [0] * 1000 + [1] * 1000, given_up=2500)
    knobs = {**KNOBS, "use_zero_pages": knob}
    limit = forecast.limit(found, knobs)
    assert (limit.freed, limit.low, limit.high, limit.pages) == (6000, 6000, 6000, 7000)
    setting = next(each for each in settings.OFFER if each.name == "10000 pages / 20 ms")
    host = settings.Host(2**34, 2**33, 2**24, 4096)
    assert settings.simulate(setting, found, host, Costs(), knobs).final == 6000


def test_what_changes_is_found_again():
    random, pages, rate, dwell = np.random.default_rng(1), 40_000, 0.01, 4.0
    moments = [0.0, 1.0, 30.0, 60.0]
    rest = np.arange(1, pages + 1)
    rows = [rest.copy() for _ in moments]
    for at_page in range(pages):
        at = random.exponential(1 / rate) - dwell
        while at < moments[-1]:
            written = pages + random.integers(1, 10**9)
            for row, moment in zip(rows, moments, strict=True):
                if at <= moment < at + dwell:
                    row[at_page] = written
            at += dwell + random.exponential(1 / rate)
    found = population.churn(np.array(rows, np.int32), moments)
    assert found.rate == pytest.approx(rate, rel=0.1)
    assert found.dwell == pytest.approx(dwell, rel=0.1)
    assert found.hot == 0
    assert (population.at_rest(np.array(rows, np.int32)) == rest).mean() > 0.99


def test_a_setting_frees_all_at_the_time_that_its_batches_take():
    pages = 4000
    found = people([*range(1, pages + 1)] * 2, [0] * pages + [1] * pages)
    setting = settings.Setting("", {"pages_to_scan": 100, "run": 1, "smart_scan": 0})
    host = settings.Host(2**34, 2**33, 2 * pages * 4096, 4096)
    outcome = settings.simulate(setting, found, host, Costs(), KNOBS, hz=250)
    assert outcome.final == forecast.limit(found, KNOBS).merged == pages
    # the second scan merges: the first half of its pages waits, and the other half is merged
    seconds, _ = outcome.soon
    batches = 2 * pages * (1 + 0.5 + 0.95 / 2) / 100
    assert seconds == pytest.approx(batches * 6 / 250, rel=0.05)  # the sixth tick


@pytest.mark.parametrize("setting", settings.OFFER, ids=lambda each: each.name)
def test_each_setting_frees_nearly_all(setting):
    pages = 3000
    found = people([*range(1, pages + 1)] * 3, [n for n in range(3) for _ in range(pages)])
    host = settings.Host(2**34, 2**33, 3 * pages * 4096, 4096)
    outcome = settings.simulate(setting, found, host, Costs(), KNOBS)
    assert outcome.final >= 0.95 * forecast.limit(found, KNOBS).merged
    assert outcome.soon[1] > 0


def test_policies_act_by_the_memory_of_the_whole_host():
    """Not only by that of what is merged: Kata by what is anonymous, others by total and in use."""
    pages = 1000
    found = people([*range(1, pages + 1)] * 2, [0] * pages + [1] * pages)
    named = {each.name: each for each in settings.OFFER}
    own = 2 * pages * 4096

    def soon(name, in_use=8, total=16, anonymous=own, seconds=20):
        host = settings.Host(total * 2**30, (total - in_use) * 2**30, anonymous, 4096)
        outcome = settings.simulate(named[name], found, host, Costs(), KNOBS, seconds=seconds)
        return outcome.soon[0]

    # Kata: if no more is anonymous, a batch is a tenth of these pages; otherwise all of them
    assert soon("Kata") > 2 * soon("Kata", anonymous=20 * own)
    # with 16 GiB in use, KubeVirt lets ksmd sleep for 100 ms, and the longer the less are in use
    four, eight, fifteen = (soon("KubeVirt", each) for each in (4, 8, 15))
    assert four == pytest.approx(2 * eight, rel=0.1)
    assert eight == pytest.approx(15 / 8 * fifteen, rel=0.1)
    assert fifteen == pytest.approx(2 * soon("KubeVirt", 30, total=64), rel=0.1)
    # of 16 GiB in all, ksmtuned lets ksmd sleep for 100 ms, after a minute, and of 4 GiB for 400
    small, large = (soon("ksmtuned of Proxmox", 2, each, seconds=100) - 60 for each in (4, 16))
    assert small > 2.5 * large


def test_what_is_said_of_forecasts_is_what_was_measured():
    cases, guests = (ROLES.parent / "docs/assess.md").read_text().split("### Booted guests")
    off = [float(each) / 100 for each in re.findall(r"\(.([\d.]+) %\) \|", cases)]
    limits = (assessment.FREED, assessment.SECONDS, assessment.CPU) * 12  # a row for each case
    assert all(each <= limit for each, limit in zip(off, limits, strict=True))
    times = "".join(re.findall(r"^\| 95 % .*$", guests, re.MULTILINE))
    pairs = re.findall(r"([\d.]+) / ([\d.]+)", times)
    longer = [float(measured) / float(forecast) for forecast, measured in pairs]
    low, high = assessment.GUESTS
    assert min(longer) == pytest.approx(low, rel=0.1)
    assert max(longer) == pytest.approx(high, rel=0.1)
    busy = f"{100 * assessment.BUSY:.0f} %"
    assert f"{busy} too high at first" in cases
    assert f"{low} to {high} times as long" in guests
    said = words.uncertain()
    assert f"{busy} off. Booted guests took {low} to {high} times as long" in said


def test_what_is_written_all_the_time_frees_less():
    pages = 3000
    churn = Churn(0.02, 5.0, 0, 0, 0)  # a tenth does not rest
    found = people([*range(1, pages + 1)] * 2, [0] * pages + [1] * pages, churn)
    limit = forecast.limit(found, KNOBS)
    assert limit.merged == pytest.approx(0.8 * pages)  # both must rest
    setting = next(each for each in settings.OFFER if each.name == "10000 pages / 20 ms")
    host = settings.Host(2**34, 2**33, 2 * pages * 4096, 4096)
    outcome = settings.simulate(setting, found, host, Costs(), KNOBS)
    assert outcome.final == pytest.approx(limit.merged, rel=0.05)


def test_a_guest_that_frees_nothing_is_to_be_excluded():
    found = people([1, 2, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2, 2])
    assert [each.worth(4096) for each in forecast.limit(found, KNOBS).guests] == [True, True, False]


def test_only_the_domain_of_a_process_says_how_to_exclude_it(kept, monkeypatch):
    monkeypatch.setattr(settings, "OFFER", ())
    told = seen.load(kept)
    told.names[:] = ["web10", "webserver"]  # the second is no guest
    pids = [pid for _, pid in told.host["processes"]]
    told.host["processes"] = [*zip(told.names, pids, strict=True)]
    guest = {
        "uid": 0,
        "settings": {"backends": [], "memory_bytes": 2**30},
        "vmm": "qemu",
        "platform": "libvirt",
    }
    guest["memory"] = {"hugetlb": {"resident": 0}}
    told.facts["domains"] = [
        {**guest, "name": name, "pid": pid, "libvirt": {"name": name}}
        for name, pid in (("web", 1), ("web1", 2), ("web10", pids[0]))
    ]
    monkeypatch.setattr(forecast.Guest, "worth", lambda *_: False)
    monkeypatch.setattr(assessment.diagnosis, "findings", lambda _: [])
    how = {each["name"]: each["exclude"] for each in assessment.assess(told)["guests"]}
    assert "web10" in how["web10"]
    assert "the prctl" in how["webserver"]


def test_the_advisor_is_only_on_offer_where_the_kernel_has_it():
    facts = {"host": {"kernel": "6.1.0"}, "readings": [{"ksm": {}}] * 2}
    assert not assessment.possible("advisor, 200 s", facts)
    assert assessment.possible("governor", facts)
