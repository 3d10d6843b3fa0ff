"""Results without the names of machines and the command lines that were run on them."""

import re
from dataclasses import replace

from ksm_analysis.results.record import Planned
from ksm_analysis.results.run import Results, Run

LEFT_OUT = "(left out)"
NO_NAMES = ("localhost", "imported")  # they name no machine


def redact(results: Results) -> Results:
    """Put numbers in the place of host names and command lines, wherever the page shows them.

    Hosts become `host 1`, …; workloads that are command lines `command 1`, …; runs that were
    imported, which are called by their files, `log 1`, …. Left out are the kernel's command line,
    and what commands printed when they failed.
    """
    hosts = dict.fromkeys(run.host for run in results.runs if run.host not in NO_NAMES)
    commands = dict.fromkeys(command for run in results.runs for command in _commands(run))
    # An imported run is called by its file.
    imported = dict.fromkeys(run.id for run in results.runs if run.imported)
    names = {
        name: f"{word} {number}"
        for word, found in (("command", commands), ("host", hosts), ("log", imported))
        for number, name in enumerate(found, start=1)
    }
    return replace(
        results,
        runs=tuple(_run(run, names) for run in results.runs),
        warnings=tuple(_words(warning, names) for warning in results.warnings),
    )


def _commands(run: Run) -> list[str]:
    """List the commands of a run. The workload of an imported run is named by its command."""
    if run.imported:
        return [run.factors["workload"]] * (run.factors["workload"] != "idle")
    return [" ".join(map(str, task["command"])) for task in run.tasks if task.get("command")]


def _words(text: str, names: dict[str, str]) -> str:
    """Rewrite a warning. What failed is told, but not in whose words: they may name anything."""
    text = re.sub(r"(since the run failed: [^:]*):.*", r"\1", text, flags=re.DOTALL)
    text = re.sub(r"( ended with (?:code )?-?\d+): .*", r"\1", text, flags=re.DOTALL)
    # Longer names first, for one may be within another; and only whole ones, with their domain
    for name in sorted(names, key=len, reverse=True):
        whole = rf"(?<![\w.-]){re.escape(name)}(?:\.\w[\w-]*)*(?![\w-])"
        text = re.sub(whole, names[name], text)
    return text


def _reason(text: str, names: dict[str, str]) -> str:
    """Keep of a reason what failed, which is the part before the first colon."""
    return _words(text.partition(":")[0], names)


def _run(run: Run, names: dict[str, str]) -> Run:
    record = run.record
    provenance = dict(record.provenance)
    if kernel := provenance.get("kernel"):
        provenance["kernel"] = kernel | {"cmdline": LEFT_OUT}
    left_out = {"file": LEFT_OUT, "header": [], "other": []}
    changed = {
        "host": names.get(run.host, run.host),
        "reason": _reason(record.reason or "", names),
        "run": _plan(run, names),
        "provenance": provenance,
        "imported": record.imported and record.imported.model_copy(update=left_out),
    }
    warnings = tuple(_words(warning, names) for warning in run.warnings)
    return replace(run, record=record.model_copy(update=changed), warnings=warnings)


def _plan(run: Run, names: dict[str, str]) -> Planned:
    """Rewrite what was asked for."""
    name = names.get(run.factors["workload"], "")
    # A host may be called as a workload is
    workload = {"workload": name} if name.startswith("command ") else {}
    changed = {
        "id": names[run.id] if run.imported else run.id,
        "factors": run.plan.factors.model_copy(update=workload),
        "note": _words(run.plan.note or "", names),
    }
    return run.plan.model_copy(update=changed)
