"""A writer of made-up run directories, in the shape of docs/data.md."""

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
    """Header, samples that rise towards a plateau, end line: as a sampler would write them."""
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
    """Make what happened: the workload, if any, from 0.1 s on for its planned time."""
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


def json_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


class Writer:
    """Writes run directories below one directory."""

    def __init__(self, directory: Path):
        self.directory = directory

    def __call__(self, record=None, lines=None, happened=None, name=None, **factors) -> Path:
        """Write a run; `record`, `lines` and `happened` stand in for what is made up otherwise."""
        record = record or run_record(**factors)
        path = self.directory / (name or record["run"]["id"])
        path.mkdir(parents=True)
        (path / "run.json").write_text(json.dumps(record))
        rows = sample_lines(record) if lines is None else lines
        (path / "samples.jsonl").write_text(json_lines(rows))
        (path / "events.jsonl").write_text(
            json_lines(events(record) if happened is None else happened)
        )
        return path
