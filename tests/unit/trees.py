"""Small copies of machines' files: a host, its knobs and its processes, for the doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

KSM: dict[str, Any] = {
    "run": 1,
    "pages_to_scan": 1000,
    "sleep_millisecs": 20,
    "merge_across_nodes": 1,
    "use_zero_pages": 0,
    "max_page_sharing": 256,
    "stable_node_chains": 0,
    "stable_node_dups": 0,
    "stable_node_chains_prune_millisecs": 2000,
    "full_scans": 40,
    "pages_shared": 5000,
    "pages_sharing": 30_000,
    "pages_unshared": 60_000,
    "pages_volatile": 0,
    "pages_scanned": 1_000_000,
    "pages_skipped": 0,
    "smart_scan": 0,
    "general_profit": 100_000_000,
    "ksm_zero_pages": 0,
    "advisor_mode": "[none] scan-time",
}
KIB = 1024
MIB = 1024  # in KiB, as smaps counts


class Tree:
    """A directory with proc and sys of a made-up machine of 16 GiB."""

    def __init__(self, root: Path, release: str = "6.12.0", **counters: Any):
        self.root = root
        self.put("proc/sys/kernel/osrelease", f"{release}\n")
        self.put("proc/vmstat", "thp_collapse_alloc 3\nthp_split_page 4\n")
        self.put("proc/uptime", "864000.00 100.00\n")
        self.put("proc/37/comm", "ksmd\n")
        self.put("proc/37/cmdline", "")
        self.put("proc/37/schedstat", "1000000000 1 1\n")
        self.meminfo(free=8192)
        self.ksm(**{**KSM, **counters})

    def put(self, path: str, text: str) -> None:
        """Write a file."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def link(self, path: str, to: str) -> None:
        """Make a link, such as that of a descriptor."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).symlink_to(to)

    def ksm(self, **counters: Any) -> None:
        """Write knobs and counters; None removes a file."""
        for name, value in counters.items():
            if value is None:
                (self.root / "sys/kernel/mm/ksm" / name).unlink(missing_ok=True)
            else:
                self.put(f"sys/kernel/mm/ksm/{name}", f"{value}\n")

    def meminfo(self, free: int, total: int = 16384, swap: int = 0) -> None:
        """Write the sizes of memory, in MiB."""
        sizes = {"MemTotal": total, "MemFree": free, "MemAvailable": free, "SwapFree": swap}
        self.put("proc/meminfo", "".join(f"{k}: {v * KIB} kB\n" for k, v in sizes.items()))

    def process(
        self,
        pid: int,
        command: str,
        *mappings: str,
        stat: dict[str, Any] | None = None,
        uid: int = 0,
        age: float = 800_000,
        comm: str = "program",
    ) -> None:
        """Make a process. Words of the command are separated by spaces; age is in seconds."""
        proc = f"proc/{pid}"
        self.put(f"{proc}/cmdline", command.replace(" ", "\0") + "\0")
        self.put(f"{proc}/comm", f"{comm}\n")
        self.put(f"{proc}/status", f"Name:\t{comm}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
        self.put(f"{proc}/smaps", "".join(mappings))
        started = round((864_000 - age) * 100)
        self.put(f"{proc}/stat", f"{pid} ({comm}) S {'1 ' * 18}{started} 1 1\n")
        if stat is not None:
            self.put(f"{proc}/ksm_stat", "".join(f"{k} {v}\n" for k, v in stat.items()))


def mapping(
    mib: int, flags: str | None = "rd wr mr mw me ac mg", name: str = "", page: int = 4, **kib: int
) -> str:
    """Return a mapping in smaps, all of it present. Flags None: a kernel that shows none."""
    shared = flags is not None and "sh" in flags.split()
    fields = {
        "Size": mib * MIB,
        "KernelPageSize": page,
        "Rss": mib * MIB,
        "Anonymous": 0 if shared else mib * MIB,
        "KSM": 0,
        **kib,
    }
    rights = "rw-s" if shared else "rw-p"
    lines = [f"7f0000000000-7f0040000000 {rights} 00000000 00:00 0 {name}"]
    lines += [f"{field}: {size} kB" for field, size in fields.items()]
    return "\n".join(lines + ([f"VmFlags: {flags}"] if flags is not None else [])) + "\n"


PRIVATE = "rd wr mr mw me ac"
SHARED = "rd wr sh mr mw me ms"
HUGETLB = "rd wr mr mw me de ht"
STAT = {
    "ksm_rmap_items": 131_072,
    "ksm_merging_pages": 30_000,
    "ksm_process_profit": 110_000_000,
    "ksm_mergeable:": "yes",
}


def guest(tree: Tree, pid: int = 500, name: str = "a", mib: int = 512, **more: Any) -> None:
    """Add an ordinary QEMU guest, all of whose memory is offered."""
    command = f"/usr/bin/qemu-system-x86_64 -name guest={name} -m {mib}"
    pages = mib * 256
    stat = {**STAT, "ksm_rmap_items": pages, **more.pop("stat", {})}
    tree.process(pid, command, mapping(mib, **more.pop("fields", {})), stat=stat, **more)
