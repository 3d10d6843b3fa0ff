"""The page as text; tests/browser tests it in a browser."""

import json
import re
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest
from made_up_runs import run_record, sample_lines
from plotly.offline import get_plotlyjs

from ksm_analysis.page import render
from ksm_analysis.page.sections import Figure
from ksm_analysis.page.words import in_words
from ksm_analysis.results import provenance
from ksm_analysis.results.reader import read_results

EVIL = "</script><script>alert('\"&1')</script>"


class Parser(HTMLParser):
    """Collects external resources, scripts and visible text of a page."""

    def __init__(self, page):
        super().__init__()
        self.loads, self.scripts, self.words, self._tag = [], [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self._tag = tag
        self.loads += [v for k, v in attrs if k in {"src", "href", "action", "data", "srcset"}]
        if tag == "script":
            self.scripts.append([dict(attrs).get("type"), ""])

    def handle_endtag(self, tag):
        self._tag = ""

    def handle_data(self, data):
        if self._tag == "script":
            self.scripts[-1][1] += data
        elif self._tag != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())


def page_of(path):
    return render.page(read_results(path.parent))


@pytest.fixture
def page(write_run):
    for guests in (1, 2):
        for workload in ("idle", "stress"):
            path = write_run(guests=guests, workload=workload)
    return page_of(path)


def test_nothing_is_loaded_from_anywhere(page):
    parsed = Parser(page)

    assert all(load.startswith(("#", "data:,")) for load in parsed.loads)
    own = page.replace(get_plotlyjs(), "")
    assert not re.search(r"https?://|@import|url\(", own)
    assert "default-src 'none'" in own


def test_plotly_is_there_once(page):
    assert page.count(get_plotlyjs()[:200]) == 1


def test_every_figure_has_a_title_and_a_definition_and_data(page):
    figures = re.findall(r'<figure id="([^"]+)".*?</figure>', page, re.S)
    scripts = [json.loads(s) for kind, s in Parser(page).scripts if kind == "application/json"]

    assert len(figures) == len(set(figures))
    assert {
        "percent-of-configured-by-guests",
        "percent-of-resident-by-guests",
        "memory-by-guests",
        "host_cpu_percent-by-interval",
        "ksmd_cpu_percent-by-interval",
        "full_scans-by-interval",
        "general_profit-by-interval",
        "pages_shared-by-interval",
        "pages_sharing-by-interval",
        "pages_unshared-by-interval",
        "pages_volatile-by-interval",
        "ksm_merging_pages-by-interval",
        "ksm_rmap_items-by-interval",
        "ksm_process_profit-by-interval",
        "ksmd_cpu_percent-by-guests",
        "general_profit-by-guests",
    } <= set(figures)
    assert page.count("<figcaption>") == page.count('class="title"') == len(figures)
    assert len(scripts) == page.count('class="plot"')
    assert all(trace["x"] and trace["y"] for figure in scripts for trace in figure["data"])
    assert all(figure["layout"]["yaxis"]["title"]["text"] for figure in scripts)


def test_the_page_describes_the_experiment(write_run):
    record = run_record(guests=1)
    record["run"]["note"] = "Is a dog a cat?"
    text = Parser(page_of(write_run(record))).text

    assert "Is a dog a cat?" in text
    assert "1 run with 1 guest of 512 MiB; workload: idle; knobs: run=1, pages_to_scan=1000" in text
    assert "4 intervals of 1 s" in text
    assert "Each cell was run once" in text


def test_warnings_come_first(write_run):
    write_run(guests=1)
    path = write_run(run_record(guests=2, status="failed", reason="guest 2 never answered"))
    text = Parser(page_of(path)).text

    assert "1 warning: read it before you trust this page" in text
    assert "left out, since the run failed: guest 2 never answered" in text
    assert text.index("guest 2 never answered") < text.index("What each setting saves")


def test_a_page_without_a_usable_run_says_why(write_run):
    page = page_of(write_run(run_record(guests=2, status="failed", reason="no memory left")))

    assert "No run can be used" in page
    assert "no memory left" in page
    assert "<figure" not in page
    assert len(page) < 100_000


def test_metrics_without_values_have_no_figure(write_run):
    record = run_record(guests=1)
    lines = sample_lines(record)
    for line in lines[1:-1]:
        del line["ksm"]["general_profit"]
        line["ksmd"]["cpu_ns"] = None
        line["guests"] = {}
    page = page_of(write_run(record, lines))

    assert "pages_shared-by-interval" in page
    assert "general_profit-by-interval" not in page
    assert "ksmd_cpu_percent-by-interval" not in page
    assert "percent-of-resident" not in page
    assert "ksm_merging_pages-by-interval" not in page


def test_names_are_text_everywhere(write_run):
    record = run_record(guests=1, host=EVIL, experiment=EVIL)
    record["run"]["note"] = EVIL
    record["run"]["factors"] |= {"knobs": EVIL, "workload": EVIL}
    record["provenance"]["cpu"]["model"] = EVIL
    record["provenance"][EVIL] = EVIL
    lines = sample_lines(record)
    for line in lines[:-1]:
        line["guests"] = {EVIL: line["guests"]["ksm-guest-01"]}
    lines[-1]["gone"] = {EVIL: 5001.0}
    write_run(record, lines)
    other = run_record(guests=2, status="failed", reason=EVIL, host="other")
    page = page_of(write_run(other))

    parsed = Parser(page)
    assert "alert('\"&1')" not in "".join(code for kind, code in parsed.scripts if not kind)
    assert EVIL not in page
    assert len([kind for kind, _ in parsed.scripts if kind is None]) == 1
    assert parsed.text.count("<script>alert(") >= 5
    for kind, code in parsed.scripts:
        if kind == "application/json":
            json.loads(code)


def test_provenance_tells_what_differs_between_runs(write_run):
    write_run(guests=1)
    record = run_record(guests=2)
    record["provenance"]["kernel"]["release"] = "6.18.0"
    facts = {
        fact.name: fact for fact in provenance.facts(read_results(write_run(record).parent).runs)
    }

    assert facts["kernel.release"].differs
    assert facts["kernel.release"].values == (
        ("6.1.0", ("g01-k1-idle-r1",)),
        ("6.18.0", ("g02-k1-idle-r1",)),
    )
    assert not facts["cpu.model"].differs
    assert facts["knobs.pages_to_scan"].values[0][0] == "1000"
    assert facts["cpu.governor"].values[0][0] == "null"


def test_the_page_is_written_atomically(write_run, tmp_path, monkeypatch):
    results = read_results(write_run().parent)
    path = tmp_path / "page.html"
    path.write_text("the page before")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", full)
        with pytest.raises(OSError, match="No space"):
            render.write(results, path)
    assert path.read_text() == "the page before"
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["page.html"]

    render.write(results, path)
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["page.html"]


def test_a_figure_cannot_end_the_script_that_it_stands_in():
    figure = Figure("id", "", "", (("", go.Figure(layout={"title": EVIL})),))
    ((_, written),) = figure.scripts()

    assert not set("<>") & set(written)
    assert json.loads(written)["layout"]["title"]["text"] == EVIL


def test_a_page_without_guests_shows_what_was_done_to_the_arrays(write_run):
    record = run_record(guests=0, workload="idle")
    record["run"]["guests"]["memory_mib"] = 0
    happened = [
        {"event": "array written", "array": 2, "pages": 977, "wall": 0.0, "monotonic": 5_001.0},
        {"event": "array changed", "change": "single", "wall": 0.0, "monotonic": 5_002.004},
    ]
    page = render.page(read_results(write_run(record, happened=happened).parent))

    assert "1 run without guests" in page
    assert "array 1 changed" in page
    assert "Dotted lines show when arrays were written and changed." in page
    assert "grey band" not in page
    for heading in (">guests<", ">Guest memory, configured<", ">CPU use of all guests<"):
        assert heading not in page
    assert 'id="counts"' not in page
    assert "memory-by-guests" not in page
    # savings and costs are still known
    assert "savings-against-cost" in page


def test_the_page_says_how_many_runs_were_steady(write_run):
    record = run_record(converged=False)
    page = render.page(read_results(write_run(record).parent))

    assert "until savings were steady (which happened in 0 of 1 runs)" in page


def test_the_page_says_what_was_imported_and_assumed(write_run):
    record = run_record(imported={"cut_short": None, "assumed": {"memory_mib": 512}})
    page = render.page(read_results(write_run(record).parent))

    assert "1 run was imported from logs; assumed: memory_mib 512." in page


def runs_of(write_run, *sampled):
    """Write a run for each (guests, memory, interval, intervals), and read them."""
    for index, (guests, memory, interval, intervals) in enumerate(sampled):
        record = run_record(guests=guests, interval=interval, intervals=intervals)
        record["run"]["guests"]["memory_mib"] = memory
        path = write_run(record, name=f"run-{index}")
    return read_results(path.parent).usable


def test_differently_sampled_runs_are_described_separately(write_run):
    words = in_words(runs_of(write_run, (0, 0, 1.0, 35), (1, 512, 2.0, 4), (3, 1024, 2.0, 4)))

    assert "3 runs without guests and with 1 and 3 guests of 512 or 1024 MiB; " in words
    sampled = "every 0.25 s for 35 intervals of 1 s, or every 0.5 s for 4 intervals of 2 s. "
    assert f"Sampled {sampled}" in words


def test_runs_that_were_sampled_in_many_ways_have_a_range(write_run):
    words = in_words(runs_of(write_run, *((1, 512, float(n), 9 - n) for n in (1, 2, 3, 4))))

    assert "4 runs with 1 guest of 512 MiB; " in words
    assert "Sampled for 5 to 8 intervals of 1 to 4 s. " in words


def test_the_answer_marks_the_front_and_times_that_were_not_reached(write_run):
    for rate, pages in ((100, 10_000), (1000, 20_000)):
        for repetition in (1, 2, 3):
            record = run_record(guests=1, repetition=repetition)
            record["run"]["factors"]["knobs"] = f"pages_to_scan={rate}"
            lines = sample_lines(record)
            rising = rate == 100 and repetition == 3
            for line in lines[1:-1]:
                share = line["n"] / 16 if rising else min(1, line["n"] / 4)
                line["ksm"]["pages_sharing"] = round((pages + repetition) * share)
                cpu = 2000 / rate * (1 + repetition / 100)
                line["ksmd"] = {"cpu_ns": round(5e9 + 1e8 * cpu * line["n"] / 16)}
            path = write_run(record, lines, name=f"{rate}-{repetition}")
    text = Parser(page_of(path)).text

    assert "on the front" in text
    assert "Every other setting saves less and costs more." in text
    assert "median 1; not reached in 1 of 3 runs; mean, restricted to 4: 2" in text
    assert "> 4" in text, "in the table of runs"
    assert "*" not in text.split("What each setting saves")[1].split("Observations")[0]
