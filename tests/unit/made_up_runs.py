"""Write simulated run directories, as docs/data.md describes them."""

import json
from pathlib import Path

WALL, MONOTONIC, PAGE = 1_700_000_000.0, 5_000.0, 4096


def run_record(guests=2, workload="idle", repetition=1, interval=1.0, intervals=4, **other):
    """Make the run.json of a run that was sampled four times an interval."""
    sampling = {"interval": interval, "intervals": intervals, "period": interval / 4}
    sampling |= {"samples": 4 * intervals + 1, "seconds": interval * intervals}
    stress = {"stress_ng": {"vm": 1}, "start": 0.0, "stop": interval * intervals / 2}
    stress["guests"] = list(range(1, guests + 1))
    knobs = {"run": 1, "pages_to_scan": 1000}
    record = {
        "format": 1,
        "experiment": "made-up",
        "run": {
            "id": f"g{guests:02}-k1-{workload}-r{repetition}",
            "index": 100 * repetition + 2 * guests + (workload != "idle"),
            "factors": {
                "guests": guests,
                "knobs": "run=1, pages_to_scan=1000",
                "workload": workload,
                "repetition": repetition,
            },
            "guests": {"count": guests, "memory_mib": 512, "disk_gib": 4, "vcpus": 1},
            "knobs": knobs,
            "workload": {"name": workload, "parts": [] if workload == "idle" else [stress]},
            "sampling": sampling,
            "seconds": 60.0,
        },
        "host": "localhost",
        "status": "complete",
        "reason": "",
        "started": WALL - 20,
        "ended": WALL + 30,
        "knobs": {
            "before": {"run": 0, "pages_to_scan": 100, "advisor_mode": "[none] scan-time"},
            "during": {**knobs, "advisor_mode": "[none] scan-time"},
            "after": {"run": 0, "pages_to_scan": 100, "advisor_mode": "[none] scan-time"},
        },
        "provenance": {
            "kernel": {"release": "6.1.0", "version": "#1", "cmdline": "quiet", "config": {}},
            "cpu": {"model": "Made-up CPU", "count": 2, "governor": None},
            "memory_bytes": 8 * 2**30,
            "page_size": PAGE,
            "transparent_hugepage": "always [madvise] never",
            "swap_bytes": 0,
            "numa_nodes": 1,
            "acceleration": "tcg",
            "versions": {"qemu": "7.2", "libvirt": "9.0", "project": "0.1.0"},
            "image": {"hash": "abc", "sha256": "def", "packages": {"stress-ng": "0.15.06-2"}},
        },
    }
    return record | other


def guest_names(record):
    return [f"ksm-guest-{i:02}" for i in range(1, record["run"]["guests"]["count"] + 1)]


def sample_lines(record):
    """Return header, samples that rise to a plateau, and end line, like a sampler."""
    sampling, names = record["run"]["sampling"], guest_names(record)
    samples, period = sampling["samples"], sampling["period"]
    header = {
        "kind": "header", "format": 1, "wall": WALL, "monotonic": MONOTONIC, "period": period,
        "samples": samples, "page_size": PAGE, "clock_ticks": 100, "boot_id": "b",
        "kernel": "6.1.0", "ksmd_pid": 37, "guests": {n: 4242 + i for i, n in enumerate(names)},
    }  # fmt: skip
    lines = [header]
    lines += [_sample(n, period, names, samples) for n in range(samples)]
    end = {"kind": "end", "samples": samples, "missed": 0, "cpu_seconds": 0.1}
    return [*lines, end | {"reason": "finished", "gone": {}}]


def _sample(n, period, names, samples):
    risen, many = min(1.0, 1.5 * n / (samples - 1)), len(names)
    sharing = round(20_000 * risen * many * many / (many + 1))
    shared = round(10_000 * risen)
    tracked = 40_000 * many
    per_guest, items = (sharing + shared) // max(1, many), 40_000
    guest = {
        "ksm_rmap_items": items, "ksm_zero_pages": 0, "ksm_merging_pages": per_guest,
        "ksm_process_profit": per_guest * PAGE - items * 64, "ksm_merge_any": "no",
        "ksm_mergeable": "yes", "utime": 500 + 5 * n, "stime": 100 + n, "resident_pages": 90_000,
    }  # fmt: skip
    return {
        "kind": "sample", "n": n, "wall": WALL + n * period, "monotonic": MONOTONIC + n * period,
        "ksm": {
            "full_scans": 1_000 + n // 3, "general_profit": sharing * PAGE - tracked * 64,
            "pages_shared": shared, "pages_sharing": sharing, "pages_scanned": 10**9 + 12_000 * n,
            "pages_unshared": round(30_000 * (1 - risen) + 5_000), "pages_volatile": 100 * (n % 3),
            "ksm_zero_pages": 0, "run": 1, "advisor_mode": "[none] scan-time",
        },
        "cpu": {
            "user": 9_000 + 30 * n, "nice": 0, "system": 4_000 + 10 * n, "idle": 70_000 + 55 * n,
            "iowait": 50 + 5 * n, "irq": 0, "softirq": 0, "steal": 0, "guest": 0, "guest_nice": 0,
        },
        "meminfo": {"MemTotal": 8_388_608, "Active(anon)": 1_000},
        "vmstat": {"cow_ksm": 7 + n, "ksm_swpin_copy": 0, "pswpin": 0, "pswpout": 0},
        "ksmd": {"cpu_ns": 5_000_000_000 + round(2e8 * n * period)},
        "guests": dict.fromkeys(names, guest),
    }  # fmt: skip


def events(record):
    """Make the events: the workload, if any, from 0.1 s on for its planned time."""
    rows = [{"event": "knobs set", "knobs": record["knobs"]["during"], "at": -1.0}]
    for workload in record["run"]["workload"]["parts"]:
        for i, name in enumerate(guest_names(record)):
            rate = 1000.0 + 100 * i
            stdout = (
                "stress-ng: info:  [1] dispatching hogs: 1 vm\n---\nmetrics:\n    - stressor: vm\n"
                f"      bogo-ops: 5\n      bogo-ops-per-second-real-time: {rate}\n\n...\n"
            )
            rows.append({"event": "workload started", "guest": name, "argv": [], "at": 0.1})
            ended = {"exitcode": 0, "stdout": stdout, "stderr": ""}
            rows.append(
                {"event": "workload stopped", "guest": name, **ended, "at": workload["stop"] + 0.1}
            )
    rows.sort(key=lambda row: row["at"])
    return [
        {**row, "wall": WALL + row["at"], "monotonic": MONOTONIC + row.pop("at")} for row in rows
    ]


def census_lines(record, progress=(0.5, 1.0), every=2.0):
    """Make censuses of memory of which a growing part is merged, like the census program.

    Of the 100,000 pages of each guest 10,000 are zeros, 10,000 are 5,000 contents twice each, and
    40,000 are the same in every guest. use_zero_pages is 1.
    """
    names = guest_names(record) or ["arrays"]
    header = {
        "kind": "header", "format": 1, "wall": WALL, "monotonic": MONOTONIC, "page_size": PAGE,
        "seconds": 4.0, "every": every, "at_scan_boundary": False, "end": True, "pause": False,
        "guests": {name: 4242 + i for i, name in enumerate(names)}, "kernel": "6.1.0",
    }  # fmt: skip
    lines = [
        _census(n, every * (n + 1), names, part, last=n == len(progress) - 1)
        for n, part in enumerate(progress)
    ]
    end = {"kind": "end", "censuses": len(lines), "missed": 0, "cpu_seconds": 0.7}
    return [header, *lines, end | {"reason": "finished"}]


def _census(n, seconds, names, part, last):
    many = len(names)
    zero, within, between = (round(part * pages) for pages in (10_000, 5_000, 40_000))
    saved = {"zero": zero * many, "within": within * many, "between": between * (many - 1)}
    merged = 2 * within + (between if many > 1 else 0)
    # each guest gets as much, and the first what is left over
    total = sum(saved.values()) * PAGE
    attributed = [total // many] * many
    attributed[0] += total - sum(attributed)
    duplicates = 10_000 + (40_000 if many > 1 else 0)
    guests = {
        name: {
            "pid": 4242 + i, "present_pages": 100_000, "swapped_pages": 0, "zero_pages": 10_000,
            "unique_pages": 90_000 - duplicates, "duplicate_pages": duplicates,
            "own_duplicate_pages": 10_000, "ksm_pages": merged, "zero_frame_pages": zero,
            "attributed_bytes": attributed[i], "complaint": None,
            "changed_pages": 1_000 * (i + 1) if n else None,
            "compared_pages": 100_000 if n else None,
            "ksm_stat": {"ksm_rmap_items": 90_000, "ksm_merging_pages": merged},
        }
        for i, name in enumerate(names)
    }  # fmt: skip
    limit = {"zero": 10_000 * many, "within": 5_000 * many, "between": 40_000 * (many - 1)}
    row = [[between if a != b else 2 * within for b in names] for a in names]
    return {
        "kind": "census", "n": n, "moment": "end" if last else "every", "wall": WALL + seconds,
        "monotonic": MONOTONIC + seconds, "page_size": PAGE, "unwritten_pages": 0,
        "frames_visible": True, "paused_seconds": 0.0, "read_seconds": 0.4, "cpu_seconds": 0.35,
        "bytes_read": 100_000 * many * PAGE, "ksm": {"full_scans": 1_010 + n},
        "ksm_after": {"full_scans": 1_010 + n},
        "present_pages": 100_000 * many, "swapped_pages": 0, "zero_pages": 10_000 * many,
        "unique_pages": (90_000 - duplicates) * many, "duplicate_pages": duplicates * many,
        "distinct_contents": 45_000 * many + 40_001, "max_page_sharing_pages": 0,
        "limit_pages": sum(limit.values()), "saved_pages": sum(saved.values()),
        **{f"limit_{kind}_pages": pages for kind, pages in limit.items()},
        **{f"saved_{kind}_pages": pages for kind, pages in saved.items()},
        "saved_ksm_pages": saved["within"] + saved["between"], "outside_mappings": 0,
        "efficiency": sum(saved.values()) / sum(limit.values()),
        "changed_pages": 500 * many * (many + 1) if n else None,
        "compared_pages": 100_000 * many if n else None, "guests": guests,
        "matrix": {"guests": names, "pages": row}, "complaints": [],
    }  # fmt: skip


def json_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


class Writer:
    """Writes run directories below one directory."""

    def __init__(self, directory: Path):
        self.directory = directory

    def __call__(
        self, record=None, lines=None, happened=None, name=None, census=None, **factors
    ) -> Path:
        """Write a run; `record`, `lines` and `happened` replace the simulated defaults.

        `census` has the lines of census.jsonl; without it there is no such file.
        """
        record = record or run_record(**factors)
        path = self.directory / (name or record["run"]["id"])
        path.mkdir(parents=True)
        (path / "run.json").write_text(json.dumps(record))
        rows = sample_lines(record) if lines is None else lines
        (path / "samples.jsonl").write_text(json_lines(rows))
        (path / "events.jsonl").write_text(
            json_lines(events(record) if happened is None else happened)
        )
        if census is not None:
            (path / "census.jsonl").write_text(json_lines(census))
        return path
