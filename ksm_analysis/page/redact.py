"""Results without host names and command lines."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from ksm_analysis.results.record import Planned
from ksm_analysis.results.run import Results, Run

LEFT_OUT = "(left out)"
NO_NAMES = ("localhost", "imported", "simulated")  # these do not identify a machine


def redact(results: Results) -> Results:
    """Replace host names and command lines with numbers, in everything that the page shows.

    Hosts become `host 1`, …. Workloads that are command lines become `command 1`, …. Imported runs,
    which have the names of their files, become `log 1`, …. The kernel's command line and the output
    of failed commands are left out.
    """
    hosts = dict.fromkeys(run.host for run in results.runs if run.host not in NO_NAMES)
    commands = dict.fromkeys(command for run in results.runs for command in _commands(run))
    # The id of an imported run is the name of its file.
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


def together(results: Sequence[Results]) -> list[Results]:
    """Redact several results, so that a host or a command has the same number in all of them."""
    every = redact(
        replace(
            results[0],
            runs=tuple(run for each in results for run in each.runs),
            warnings=tuple(text for each in results for text in each.warnings),
        )
    )
    runs, warnings = iter(every.runs), iter(every.warnings)
    return [
        replace(
            each,
            runs=tuple(islice(runs, len(each.runs))),
            warnings=tuple(islice(warnings, len(each.warnings))),
        )
        for each in results
    ]


def _commands(run: Run) -> list[str]:
    """List the commands of a run. The name of an imported run's workload is its command."""
    if run.imported:
        return [run.factors["workload"]] * (run.factors["workload"] != "idle")
    return [
        *(" ".join(map(str, task["command"])) for task in run.tasks if task.get("command")),
        *filter(None, [_program(run)]),
    ]


def _program(run: Run) -> str:
    """Return the command of a policy; empty if it is none of one's own."""
    policy = run.plan.policy
    own = policy and policy.kind == "command"
    return " ".join(map(str, policy.settings.get("argv", []))) if policy and own else ""


def _policy(run: Run, names: dict[str, str]) -> dict[str, Any]:
    """Rewrite the command of a policy."""
    if not (policy := run.plan.policy) or not (program := _program(run)):
        return {}
    changed = {"settings": {"argv": [names[program]]}, "full": names[program]}
    return {"policy": policy.model_copy(update=changed)}


def _event(event: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a program of one's own has said."""
    said = {name: LEFT_OUT for name in ("reason", "said") if event.get(name)}
    return event | said if event["event"] in ("decision", "policy program ended") else event


def _words(text: str, names: dict[str, str]) -> str:
    """Rewrite a warning. Say what failed, but without the output, which may name anything."""
    text = re.sub(r"(since the run failed: [^:]*):.*", r"\1", text, flags=re.DOTALL)
    text = re.sub(r"( ended with (?:code )?-?\d+): .*", r"\1", text, flags=re.DOTALL)
    # what a command printed
    text = re.sub(r"(; the first(?: line)?)[:,] .*", r"\1 is left out", text, flags=re.DOTALL)
    # the names of other processes of the host
    text = re.sub(r"(; the counters include them): .*", r"\1", text, flags=re.DOTALL)
    # Longer names first, because they may contain shorter ones; only whole names, with a domain
    for name in sorted(names, key=len, reverse=True):
        whole = rf"(?<![\w.-]){re.escape(name)}(?:\.\w[\w-]*)*(?![\w-])"
        text = re.sub(whole, names[name], text)
    return text


def _reason(text: str, names: dict[str, str]) -> str:
    """Keep only what failed: the part of a reason before the first colon."""
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
    events = tuple(map(_event, run.events)) if _program(run) else run.events
    changed_record = record.model_copy(update=changed)
    return run.relabelled(changed_record, warnings=warnings, events=events)


def _images(run: Run) -> dict[str, Any]:
    """Keep only the names of images, which the labels have, too: a disk of one's own has a path."""
    images = run.plan.guests.images
    return {"images": [{"name": image.get("name")} for image in images]} if images else {}


def _plan(run: Run, names: dict[str, str]) -> Planned:
    """Rewrite the plan of a run."""
    name = names.get(run.factors["workload"], "")
    # A host and a workload may have the same name
    workload = {"workload": name} if name.startswith("command ") else {}
    changed = {
        "id": names[run.id] if run.imported else run.id,
        "factors": run.plan.factors.model_copy(update=workload),
        "guests": run.plan.guests.model_copy(update=_images(run)),
        "note": _words(run.plan.note or "", names),
        **_policy(run, names),
    }
    return run.plan.model_copy(update=changed)
