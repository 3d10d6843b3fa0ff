#!/usr/bin/env python3
"""A simulated campaign of any size: run directories as the sampler would write them."""

import argparse
import json
from pathlib import Path

import numpy as np

WALL, MONOTONIC, PAGE = 1_700_000_000.0, 5_000.0, 4096
KNOBS = {
    "advisor_max_cpu": 70, "advisor_max_pages_to_scan": 30000, "advisor_min_pages_to_scan": 500,
    "advisor_mode": "[none] scan-time", "advisor_target_scan_time": 200, "max_page_sharing": 256,
    "merge_across_nodes": 1, "run": 1, "sleep_millisecs": 20, "smart_scan": 0,
    "stable_node_chains_prune_millisecs": 2000, "use_zero_pages": 0,
}  # fmt: skip
MEMINFO = (
    "MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapCached", "Active(anon)",
    "Inactive(anon)", "Unevictable", "Mlocked", "SwapTotal", "SwapFree", "Zswap", "Zswapped",
    "AnonPages", "Mapped", "Shmem", "Slab", "SReclaimable", "PageTables", "AnonHugePages",
)  # fmt: skip


def write(directory: Path, settings=8, guests=10, minutes=30.0, hertz=10.0) -> int:
    """Write one run for each setting of pages_to_scan; return the number of guests' samples."""
    for index in range(1, settings + 1):
        record = _record(index, guests, minutes, hertz)
        path = directory / record["run"]["id"]
        path.mkdir(parents=True)
        (path / "run.json").write_text(json.dumps(record))
        (path / "events.jsonl").write_text("")
        with (path / "samples.jsonl").open("w") as file:
            for line in _lines(record, np.random.default_rng(index)):
                file.write(json.dumps(line, separators=(",", ":")) + "\n")
    return settings * guests * (record["run"]["sampling"]["samples"] - 1)


def _record(index, guests, minutes, hertz):
    seconds, pages = minutes * 60, 500 * index
    samples = round(seconds * hertz) + 1
    knobs = KNOBS | {"pages_to_scan": pages, "advisor_mode": "none"}
    return {
        "format": 1, "experiment": "campaign", "host": "localhost", "status": "complete",
        "reason": "", "converged": None, "started": WALL, "ended": WALL + seconds,
        "knobs": {"before": knobs, "during": knobs, "after": knobs},
        "provenance": {"kernel": {"release": "6.1.0"}, "page_size": PAGE},
        "run": {
            "id": f"g{guests:02}-k{index}-idle-r1", "index": index, "seconds": seconds,
            "factors": {"guests": guests, "knobs": f"pages_to_scan={pages}", "workload": "idle",
                        "repetition": 1},
            "guests": {"count": guests, "memory_mib": 512, "disk_gib": 4, "vcpus": 1},
            "knobs": {"run": 1, "pages_to_scan": pages}, "workload": {"name": "idle", "parts": []},
            "sampling": {"interval": 60.0, "intervals": round(minutes), "period": 1 / hertz,
                         "samples": samples, "seconds": seconds},
        },
    }  # fmt: skip


def _lines(record, random):
    """Yield header, samples that rise to a noisy plateau with rare peaks, end line."""
    sampling, guests = record["run"]["sampling"], record["run"]["guests"]["count"]
    count, period = sampling["samples"], sampling["period"]
    names = [f"ksm-guest-{i:02}" for i in range(1, guests + 1)]
    yield {
        "kind": "header", "format": 1, "wall": WALL, "monotonic": MONOTONIC, "period": period,
        "samples": count, "page_size": PAGE, "clock_ticks": 100, "boot_id": "b",
        "kernel": "6.1.0", "ksmd_pid": 37, "guests": {n: 4000 + i for i, n in enumerate(names)},
    }  # fmt: skip
    risen = 1 - np.exp(-np.arange(count) / (count / 12))
    sharing = (20_000 * guests * risen + random.normal(0, 60, count)).clip(0).astype(int)
    sharing[random.integers(0, count, 5)] += 9_000
    unshared = (40_000 * (1 - risen) + random.normal(9_000, 700, count)).clip(0).astype(int)
    merging = (21_000 * risen[:, None] + random.normal(0, 90, (count, guests))).clip(0).astype(int)
    memory = random.integers(1_000, 9_000_000, (count, len(MEMINFO)))
    jitter = random.uniform(0, 2e-3, count)
    for n in range(count):
        yield _sample(n, period, int(sharing[n]), int(unshared[n]), merging[n].tolist(),
                      memory[n].tolist(), float(jitter[n]), names, record)  # fmt: skip
    yield {"kind": "end", "samples": count, "missed": 0, "cpu_seconds": 9.0, "reason": "finished",
           "gone": {}}  # fmt: skip


def _sample(n, period, sharing, unshared, merging, memory, late, names, record):
    at, items = n * period + late, 60_000
    tracked = items * len(names)
    return {
        "kind": "sample", "n": n, "wall": round(WALL + at, 9),
        "monotonic": round(MONOTONIC + at, 9),
        "ksm": {
            **KNOBS, "pages_to_scan": record["run"]["knobs"]["pages_to_scan"],
            "full_scans": 1_000 + n // 50, "general_profit": sharing * PAGE - tracked * 64,
            "pages_shared": 10_000 + sharing // 9, "pages_sharing": sharing,
            "pages_scanned": 10**9 + 5_000 * n, "pages_skipped": 0, "pages_unshared": unshared,
            "pages_volatile": unshared % 977, "ksm_zero_pages": 0, "stable_node_chains": 2,
            "stable_node_dups": 0,
        },
        "cpu": {
            "user": 9_000 + 3 * n, "nice": 0, "system": 4_000 + n, "idle": 70_000 + 15 * n,
            "iowait": 50 + n // 9, "irq": 0, "softirq": n // 7, "steal": 0, "guest": 0,
            "guest_nice": 0,
        },
        "meminfo": dict(zip(MEMINFO, memory, strict=True)) | {"MemTotal": 24_000_000,
                                                               "MemAvailable": 20_000_000},
        "vmstat": {"pswpin": 0, "pswpout": 0, "ksm_swpin_copy": 0, "cow_ksm": 7 + n},
        "ksmd": {"cpu_ns": 5_000_000_000 + 15_000_000 * n},
        "guests": {
            name: {
                "ksm_rmap_items": items, "ksm_zero_pages": 0, "ksm_merging_pages": pages,
                "ksm_process_profit": pages * PAGE - items * 64, "ksm_merge_any": "no",
                "ksm_mergeable": "yes", "utime": 500 + n // 2, "stime": 100 + n // 9,
                "resident_pages": 90_000 + pages // 100,
            }
            for name, pages in zip(names, merging, strict=True)
        },
    }  # fmt: skip


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("directory", type=Path, metavar="DIR", help="new directory of results")
    add("--settings", type=int, default=8, metavar="N", help="runs (default: 8)")
    add("--guests", type=int, default=10, metavar="N", help="of each run (default: 10)")
    add("--minutes", type=float, default=30, metavar="X", help="of each run (default: 30)")
    add("--hertz", type=float, default=10, metavar="X", help="samples a second (default: 10)")
    samples = write(**vars(parser.parse_args()))
    print(f"{samples:,} samples of guests")


if __name__ == "__main__":
    main()
