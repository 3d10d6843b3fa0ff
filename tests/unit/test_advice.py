"""What is recommended: the cheapest setting that may save most, and ways to set it."""

import json

import pytest
from made_up_runs import Writer, run_record, sample_lines

from ksm_analysis.__main__ import main
from ksm_analysis.analysis.advice import advise, rate_of
from ksm_analysis.metrics import measurement
from ksm_analysis.results.reader import read_run

MIB = 256  # pages
PAGES, SLEEP = 1_000, 20


@pytest.fixture
def write(tmp_path):
    """Write runs of a setting, one for each number of MiB that it saves."""
    write_run = Writer(tmp_path / "made-up")

    def write(*saved, cpu=0.8, policy=None, label=None, scans=3, **knobs):
        knobs = {"run": 1, "pages_to_scan": PAGES, "sleep_millisecs": SLEEP} | knobs
        label = label or f"pages_to_scan={knobs['pages_to_scan']}"
        for repetition, mib in enumerate(saved, start=1):
            record = run_record(guests=1, repetition=repetition)
            record["provenance"]["memory_bytes"] = 32 * 2**30
            record["run"] |= {"id": f"{label}-r{repetition}", "knobs": knobs}
            record["run"] |= {"policy": policy} if policy else {}
            record["run"]["factors"]["knobs"] = label
            record["knobs"]["during"] = record["knobs"]["during"] | knobs
            lines = sample_lines(record)
            for line in lines[1:-1]:
                n = line["n"]
                line["ksm"]["pages_sharing"] = mib * MIB
                line["ksm"]["full_scans"] = 1000 + n // scans
                line["ksmd"] = {"cpu_ns": round(5e9 + cpu * 1e9 * n / 16)}
            write_run(record, lines)
        return tmp_path / "made-up"

    return write


def advice(directory):
    """Return the only advice of some runs."""
    runs = [read_run(path) for path in sorted(directory.iterdir())]
    (found,) = advise([measurement.measure(run) for run in runs])
    return found


def test_the_cheapest_of_those_that_may_save_most(write):
    write(100, 101, 99, cpu=0.4)
    write(100, 99, 102, cpu=1.2, pages_to_scan=4000)
    found = advice(write(50, 51, 49, cpu=0.1, pages_to_scan=100))
    assert found.setting == "pages_to_scan=1000"
    assert "cannot tell it from pages_to_scan=4000" in " ".join(found.why)
    now, boot, advisor, ksmtuned = found.ways
    assert now[1] == (
        "echo 1000 > /sys/kernel/mm/ksm/pages_to_scan",
        "echo 20 > /sys/kernel/mm/ksm/sleep_millisecs",
        "echo 1 > /sys/kernel/mm/ksm/run",
    )
    assert boot[1][-1] == "w /sys/kernel/mm/ksm/run - - - - 1"
    assert "advisor" in advisor[0]
    assert "KSM_NPAGES_MAX=1000" in ksmtuned[1]
    assert any(line.startswith("KSM_SLEEP_MSEC=40 ") for line in ksmtuned[1])  # of 32 GiB


def test_the_advisor_is_told_to_scan_as_fast(write):
    """ksmd has used 10 % of a CPU: the least that the advisor can."""  # noqa: D403
    write(100, 101, 99, cpu=0.4)
    title, lines = advice(write(50, 51, 49, pages_to_scan=100)).ways[2]
    values = dict(
        line.removeprefix("echo ").split(" > /sys/kernel/mm/ksm/")[::-1] for line in lines
    )
    assert [*values][-2:] == ["advisor_mode", "run"]
    assert int(values["advisor_max_pages_to_scan"]) == PAGES
    assert "predicted" in title
    assert int(values["advisor_target_scan_time"]) >= 1


def test_the_rate_is_measured(write):
    (path, *_) = write(100).iterdir()
    rate = rate_of([read_run(path)])
    assert rate.seconds == pytest.approx(4 / 5)  # five scans in 4 s
    assert rate.cpu_percent == pytest.approx(20)
    assert rate.page_seconds == pytest.approx(0.8 / (16 * 12_000))


def test_a_policy_is_recommended_by_its_own_means(write):
    governor = {"name": "governor", "kind": "governor", "settings": {"price": 2}}
    write(100, 101, 99, cpu=0.1, policy=governor, label="policy=governor")
    found = advice(write(50, 51, 49))
    (way,) = found.ways
    assert way[1] == ("ansible-playbook playbooks/governor.yml -e governor_price=2",)


def test_policies_of_platforms_are_told_in_their_words(write):
    settings = {"interval": 180.0, "pages_boost": 300, "free_percent": 0.2}
    kubevirt = {"name": "kubevirt", "kind": "kubevirt", "settings": settings}
    write(100, 101, 99, cpu=0.1, policy=kubevirt, label="policy=kubevirt")
    ((_, lines),) = advice(write(50, 51, 49)).ways
    assert '"ksmConfiguration":{"nodeLabelSelector":{}}' in lines[0]
    assert lines[1] == (
        "kubectl annotate node NODE kubevirt.io/ksm-pages-boost-override=300"
        " kubevirt.io/ksm-free-percent-override=0.2"
    )
    kata = {"name": "kata", "kind": "kata", "settings": {"mode": "auto"}}
    ((_, lines),) = advice(write(200, 201, 199, cpu=0.1, policy=kata, label="policy=kata")).ways
    assert lines == ("systemctl enable --now vc-throttler",)


def test_ksmtuned_and_the_advisor(write):
    ksmtuned = {"name": "k", "kind": "ksmtuned", "settings": {"KSM_THRES_COEF": 100}}
    write(100, 101, 99, cpu=0.1, policy=ksmtuned, label="policy=ksmtuned")
    found = advice(write(50, 51, 49))
    assert found.ways[0][1] == ("KSM_THRES_COEF=100", "systemctl restart ksmtuned")
    advisor = {"name": "a", "kind": "advisor", "settings": {"target_scan_time": 30}}
    found = advice(write(200, 201, 199, cpu=0.1, policy=advisor, label="policy=advisor"))
    assert "echo 30 > /sys/kernel/mm/ksm/advisor_target_scan_time" in found.ways[0][1]
    assert len(found.ways) == 2


def test_other_knobs_belong_to_each_way(write):
    """Neither the advisor nor ksmtuned sets smart_scan, on which savings depend."""
    write(100, 101, 99, cpu=0.4, smart_scan=0)
    found = advice(write(50, 51, 49, pages_to_scan=100, smart_scan=0))
    for _, lines in found.ways:
        assert any("smart_scan" in line for line in lines)


def test_the_advisor_does_not_let_others_set_its_pages(write):
    advisor = {"name": "a", "kind": "advisor", "settings": {}}
    write(100, 101, 99, cpu=0.1, policy=advisor, label="policy=advisor")
    now, _ = advice(write(50, 51, 49)).ways
    assert not any("/pages_to_scan" in line for line in now[1])


def test_too_few_runs_recommend_nothing(write, capsys):
    write(100, 101)
    assert main(["recommend", str(write(50, 51, pages_to_scan=100))]) == 1
    assert "3 repetitions of each" in capsys.readouterr().out


def test_for_people_and_for_programs(write, capsys):
    write(100, 101, 99)
    results = str(write(50, 51, 49, pages_to_scan=100))
    assert main(["recommend", results]) == 0
    text = capsys.readouterr().out
    assert "pages_to_scan=1000\n" in text
    assert "At each boot: /etc/tmpfiles.d/ksm.conf" in text
    assert main(["recommend", results, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["setting"] == "pages_to_scan=1000"
