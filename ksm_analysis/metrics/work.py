"""What the host did in a run apart from ksmd: interrupts, page faults, khugepaged.

KSM causes some of it: it flushes TLBs when it write-protects a page, each write to a merged page is
a page fault, and khugepaged copies what KSM has split. The rest has other causes, so only a
difference between runs tells what KSM costs others.
"""

import math

from ksm_analysis.results.run import Run

UNITS = {
    "tlb_shootdowns_per_second": "interrupts/s",
    "function_calls_per_second": "interrupts/s",
    "page_faults_per_second": "faults/s",
    "khugepaged_cpu_percent": "% of one CPU",
}
COLUMNS = tuple(UNITS)


def of_run(run: Run) -> dict[str, float]:
    """Return COLUMNS: means from the first sample to the last; NaN if the kernel does not tell.

    Empty if the end line has none of them. Percent are of one CPU.
    """
    counted = run.end.get("work") or {}
    seconds = counted.get("seconds") or 0
    if not seconds > 0:
        return {}
    values = {
        f"{name}_per_second": _over(counted.get(name), seconds)
        for name in ("tlb_shootdowns", "function_calls", "page_faults")
    }
    busy = _over(counted.get("khugepaged_cpu_ns"), seconds * 1e9)
    return {**values, "khugepaged_cpu_percent": 100 * busy}


def _over(count: float | None, divisor: float) -> float:
    return math.nan if count is None else count / divisor
