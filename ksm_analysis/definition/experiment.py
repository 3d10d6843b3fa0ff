"""Convert the YAML text of an experiment to a validated definition and its list of runs.

This module uses no host and no file. The host checks whether a knob exists, since kernels have
different knobs.
"""

import itertools
import random
import re
from pathlib import PurePath
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ksm_analysis.definition import yaml_errors
from ksm_analysis.definition.definition import (
    Census,
    Experiment,
    Sampling,
    Shuffled,
    Stop,
    Zram,
    model,
    steady_of,
)
from ksm_analysis.definition.density import PARTITION
from ksm_analysis.definition.factors import swap_label
from ksm_analysis.definition.guests import CANNOT_MERGE, Network, asked
from ksm_analysis.definition.part import outside
from ksm_analysis.definition.policies import NONE, Policy, goes_with
from ksm_analysis.definition.processes import Processes
from ksm_analysis.definition.values import Model, Rest, keys
from ksm_analysis.definition.workload import WITHOUT_GUESTS, Part, Workload
from ksm_analysis.errors import InputError

# Time that a run takes in addition to its sampling: first to unmerge, and to define and remove the
# guests; second to boot, for each guest. Measured with emulated guests on two CPUs, where boots
# wait for each other. With hardware virtualisation, a run is faster than its estimate.
RUN_SECONDS = 10.0
GUEST_SECONDS = 18.0
GUEST = "ksm-guest-{:02}"  # as the role guests names them
PROCESS_SECONDS = 2.0  # to start a copy and to load its data


# --- text to experiment --------------------------------------------------------------------------


def parse(
    text: str, file: str, interval: float | None = None, intervals: int | None = None
) -> Experiment:
    """Read a definition. `file` is only for messages.

    `interval` and `intervals` come from the command line, and override those of the file.
    Raises InputError with one line for each error: file, line, key, what is allowed.
    """
    data, root = yaml_errors.read(text, file)
    if root is None or not isinstance(data, dict):
        allowed = ", ".join(keys(model()))
        raise InputError(f"{file}:1: an experiment is a mapping with the keys {allowed}")
    options = {"interval": interval, "intervals": intervals}
    options = {name: value for name, value in options.items() if value is not None}
    if isinstance(data.get("sampling"), dict):
        data["sampling"] = {**data["sampling"], **options}
    problems = list(yaml_errors.repeated_keys(root))
    try:
        experiment = model().model_validate(data, context=_rest(data, options))
    except ValidationError as error:
        problems += [_problem(details, root, options) for details in error.errors()]
    if problems:
        raise InputError("\n".join(_line(file, *each) for each in sorted(problems)))
    return experiment


def _rest(data: dict[str, Any], options: dict[str, Any]) -> Rest:
    """Return what the checks of one key need to know about other keys, if those are valid."""
    workloads, stop = data.get("workloads"), data.get("stop")
    by = " and ".join(f"--{name}" for name in options)
    sampling = _if_right(Sampling, data.get("sampling"))
    seconds = sampling.seconds if sampling else None
    steady = steady_of(_if_right(Stop, stop) if isinstance(stop, dict) else stop)
    processes = _if_right(Processes, data.get("processes"))
    return Rest(
        seconds=seconds,
        length="the length of a run's sampling" + (f" with {by}" if by else ""),
        guests="guests" in data,
        processes="processes" in data,
        # wrong processes are reported at their own key
        service=processes.service if processes else ("" if data.get("processes") else None),
        copies=max(processes.count) if processes else 1,
        come_and_go="density" in data or bool(processes and processes.come_and_go),
        without_guests=_without_guests(workloads, bool({"processes", "population"} & {*data})),
        # an impossible time is reported once, at its own key
        steady=steady.seconds if steady and seconds and steady.seconds <= seconds else 0.0,
    )


def _without_guests(workloads: object, processes: bool) -> bool:
    """Whether no workload needs guests. Beside processes, idle needs none."""
    if workloads is None:
        return processes
    return isinstance(workloads, list) and all(
        (isinstance(each, dict) and bool({*WITHOUT_GUESTS} & {*each}))
        or (processes and each == "idle")
        for each in workloads
    )


def _if_right(model: type[Model], value: object) -> Model | None:
    try:
        return model.model_validate(value)
    except ValidationError:
        return None


def _problem(details: ErrorDetails, root: yaml.Node, options: dict[str, Any]) -> tuple[int, str]:
    """One error as (line, text); line 0 is the command line."""
    key, *within = details["loc"]
    by_options = within[0] in options if within else options and details["type"] == "wrong"
    if key == "sampling" and by_options:
        given = within or options
        return 0, f"{', '.join(f'--{name}' for name in given)}: {details['msg']}"
    return yaml_errors.problem(details, root, model())


def _line(file: str, line: int, text: str) -> str:
    return f"{file}:{line}: {text}" if line else text


# --- experiment to runs --------------------------------------------------------------------------


def plan(experiment: Experiment, file: str) -> dict[str, Any]:
    """List the runs of an experiment, in the order of running, in the format of docs/data.md."""
    name = PurePath(file).stem
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        allowed = "letters, digits, '.', '_' and '-'"
        raise InputError(
            f"{file}: the name of the file becomes the name of a directory: {allowed} are allowed"
        )
    settings = _settings(experiment)
    policies = experiment.policies != [NONE]
    labels = knob_labels([_in_label(setting, policies) for setting in settings])
    variants = _variants(experiment)
    made_of = knob_labels(variants) if len(variants) > 1 else [""]
    cells = enumerate(_cells(experiment), start=1)
    runs = [_run(experiment, index, (labels, made_of), *cell) for index, cell in cells]
    return {
        "experiment": name,
        "file": file,
        "note": experiment.note.strip(),
        "order": _in_words(experiment.order),
        "seconds": sum(run["seconds"] for run in runs),
        "runs": runs,
    }


# guests, number of what they are made of, processes, number of the setting, workload
Cell = tuple[int, int, int, int, Workload]


def _cells(experiment: Experiment) -> list[tuple[int, int, int, int, int, Workload]]:
    """(repetition, *cell) of each run, in order.

    The control has the number after the last setting. By default, repetitions are outermost and
    their orders balanced: a drift over time (a warmer CPU, a fuller disk) then affects all cells
    alike.
    """
    made = experiment.population
    guests = experiment.guests.count if experiment.guests else made.guests if made else [0]
    copies = experiment.processes.count if experiment.processes else [0]
    settings = range(len(_settings(experiment)) + experiment.control)
    variants = range(len(_variants(experiment)))
    cells = list(itertools.product(guests, variants, copies, settings, experiment.workloads))
    number = (made.hosts if made else None) or experiment.repetitions
    repetitions = range(1, number + 1)
    if experiment.order == "as-written":
        return [(r, *cell) for cell in cells for r in repetitions]
    orders = _orders(cells, experiment.order, number)
    return [(r, *cell) for r, order in zip(repetitions, orders, strict=True) for cell in order]


def _variants(experiment: Experiment) -> list[dict[str, Any]]:
    """List what guests are made of; without guests, a single thing of no kind."""
    if experiment.population:
        return experiment.population.variants
    return experiment.guests.variants if experiment.guests else [{}]


_Setting = tuple[dict[str, Any], dict[str, Any], dict[str, Any], Policy]


def _settings(experiment: Experiment) -> list[_Setting]:
    """List what can be chosen: knobs of KSM and of huge pages, swap space, and the policy."""
    pages = [each.knobs for each in experiment.thp or []] or [{}]
    swaps = [_swap(each) for each in experiment.swap]
    return [
        (knobs, page, swap, policy)
        for knobs, page, swap in itertools.product(experiment.knobs, pages, swaps)
        for policy in (experiment.policies if goes_with(knobs) else [NONE])
    ]


def _swap(swap: Zram | str) -> dict[str, Any]:
    if isinstance(swap, Zram):
        return {"swap": swap.zram_mib}
    return {} if swap == "as-found" else {"swap": swap}


def _in_label(setting: _Setting, policies: bool) -> dict[str, Any]:
    """Return what the label of a setting may name, its policy if there are `policies`."""
    knobs, thp, swap, policy = setting
    prefixed = {f"thp {name}": value for name, value in thp.items()}
    swaps = {name: swap_label(value) for name, value in swap.items()}
    return {**knobs, **prefixed, **swaps, **({"policy": policy.label} if policies else {})}


def _orders(cells: list[Cell], order: Shuffled | str, repetitions: int) -> list[list[Cell]]:
    """Return the order of the cells in each repetition."""
    if isinstance(order, Shuffled):
        draw = random.Random(order.shuffled)
        return [draw.sample(cells, len(cells)) for _ in range(repetitions)]
    if order == "interleaved":
        return [cells] * repetitions
    rows = itertools.islice(itertools.cycle(williams(len(cells))), repetitions)
    return [[cells[place] for place in row] for row in rows]


def williams(count: int) -> list[list[int]]:
    """Return orders of things numbered from 0, balanced for position and for what goes before.

    Over all rows, each thing is in each position equally often, and follows each other thing
    equally often. There are as many rows as things, or twice as many for an odd count. The first
    row is 0, 1, 2, … Every second row is the one before it, reversed: so after each second row,
    all things have the same mean position.

    Source: Williams, Experimental Designs Balanced for the Estimation of Residual Effects, 1949.
    """
    first = [(n + 1) // 2 if n % 2 else (count - n // 2) % count for n in range(count)]
    name = {value: place for place, value in enumerate(first)}
    rows = [[name[(value + shift) % count] for value in first] for shift in range(count)]
    if count % 2:  # the reversed rows are others, except for a single thing
        pairs = [(row, row[::-1]) for row in rows]
        return rows if count == 1 else [row for pair in pairs for row in pair]
    half = count // 2
    return [rows[n + half * reverse] for n in range(half) for reverse in range(2)]


def _in_words(order: Shuffled | str) -> str:
    return f"shuffled({order.shuffled})" if isinstance(order, Shuffled) else order


def knob_labels(settings: list[dict[str, Any]]) -> list[str]:
    """Name each setting by the knobs that differ between settings, or a single one by all knobs."""
    names = list(dict.fromkeys(itertools.chain(*settings)))
    if len(settings) > 1:
        names = [name for name in names if len({str(s.get(name)) for s in settings}) > 1]
    return [
        ", ".join(f"{name}={s[name]}" if name in s else f"{name} as found" for name in names)
        for s in settings
    ]


def _run(
    experiment: Experiment,
    index: int,
    labels: tuple[list[str], list[str]],
    repetition: int,
    count: int,
    variant: int,
    copies: int,
    setting: int,
    workload: Workload,
) -> dict[str, Any]:
    settings, (settings_labels, made_of) = _settings(experiment), labels
    control = setting == len(settings)
    name = "control" if control else f"k{setting + 1}"
    # without ksmd there is little to measure, so run=0 must be explicit
    chosen, thp, swap, policy = settings[0 if control else setting]
    knobs = {"run": 1, **chosen, **policy.knobs}
    processes = experiment.processes
    sizes = [f"g{count:02}"] if experiment.guests or not processes else []
    sizes += [f"v{variant + 1}"] if made_of[variant] else []
    sizes += [f"p{copies:03}"] if processes else []
    planned: dict[str, Any] = {
        "id": f"{'-'.join(sizes)}-{name}-{workload.name}-r{repetition}",
        "index": index,
        "factors": {
            "guests": count,
            "knobs": f"{settings_labels[0]}, control" if control else settings_labels[setting],
            "workload": _workload_label(experiment, workload, copies, made_of[variant]),
            "repetition": repetition,
        },
        "guests": _guests(experiment, count, variant, workload),
        "knobs": knobs,
        "knobs_if_present": _if_present(experiment, policy, chosen),
        "thp": thp,
        **swap,
        **({"policy": policy.planned()} if policy != NONE else {}),
        "workload": workload.model_dump(include={"name", "requires"}, exclude_none=True),
        "sampling": _sampling(experiment, knobs, workload),
        # in each run, so that a single run directory can be understood
        "note": experiment.note.strip(),
        "seconds": RUN_SECONDS + GUEST_SECONDS * count + experiment.sampling.seconds,
    }
    if control:
        planned["control"] = True
    notes = _notes(planned["guests"]) + (processes.notes if processes else []) + policy.notes
    if notes:
        planned["notes"] = notes
    if processes:
        planned["factors"]["processes"] = copies
        planned["seconds"] += PROCESS_SECONDS * copies
    parts = _run_parts(experiment, planned["sampling"], workload, count, copies)
    if experiment.population:
        options = experiment.population.options(variant, count)
        parts.insert(0, _part("population", options))
    acts = [_part("policy", policy.part)] if policy.part else []  # last: it is ended first
    return planned | {"parts": _seeded(parts, repetition) + acts}


def _if_present(
    experiment: Experiment, policy: Policy, chosen: dict[str, Any]
) -> dict[str, int | str]:
    """Return the knobs that only some kernels have, with those that the policy needs."""
    needed = {k: v for k, v in policy.knobs_if_present.items() if k not in chosen}
    return {**experiment.knobs_if_present, **needed}


def _workload_label(experiment: Experiment, workload: Workload, copies: int, made_of: str) -> str:
    """Name a workload. Runs are grouped by it, and it has all that is no setting to choose."""
    processes, density = experiment.processes, experiment.density
    ran = f"{copies} × {processes.name}" if processes else ""  # noqa: RUF001
    if density:
        size = experiment.guests.memory_mib if experiment.guests else 0
        what = processes.name if processes else f"guests of {size} MiB"
        ran = f"{what} in {density.memory_mib} MiB"
    if experiment.population:
        ran = made_of or knob_labels(experiment.population.variants)[0]
        made_of = ""
    work = "" if ran and workload.name == "idle" else workload.name
    return ", ".join(filter(None, [ran, work, made_of]))


def _processes(experiment: Experiment, copies: int) -> list[dict[str, Any]]:
    """Return the part of the processes, which are ready before any other part is prepared."""
    processes, density = experiment.processes, experiment.density
    if processes is None:
        return []
    part = {"name": "processes", "role": "ksm.testbed.processes"}
    names = processes.names(density.limit if density else copies)
    options = {"options": processes.options(copies, density), "processes": names}
    return [{**part, **options, "prepare": True}]


def _transient(
    experiment: Experiment, parts: list[dict[str, Any]], count: int
) -> dict[str, list[str]]:
    """Name the processes that may come and go within a run, if there are any."""
    processes, names = experiment.processes, []
    if processes and (processes.come_and_go or experiment.density):
        names += parts[0]["processes"]
    names += _density_guests(experiment)
    names += dict.fromkeys(GUEST.format(number) for *_, number in _changes(experiment, count))
    return {"transient": names} if names else {}


def _seeded(parts: list[dict[str, Any]], repetition: int) -> list[dict[str, Any]]:
    """Give each repetition random times and pages of its own.

    They are the same for all settings, which are compared within a repetition: chance is then no
    difference between settings, but it is one between repetitions.
    """
    for part in parts:
        if part["name"] in ("write_probe", "load"):
            part["options"]["seed"] += repetition - 1
    return parts


def _run_parts(
    experiment: Experiment, sampling: dict[str, Any], workload: Workload, count: int, copies: int
) -> list[dict[str, Any]]:
    """The parts of a run, in the order of their start."""
    parts = _processes(experiment, copies)
    come_and_go = _transient(experiment, parts, count)
    parts += _density(experiment, count) + _arrivals(experiment, count)
    if workload.arrays:
        parts.append({**_part("arrays", workload.arrays.model_dump()), "processes": ["arrays"]})
    if workload.memory:
        part = _part("memory", workload.memory.model_dump())
        parts.append({**part, "processes": ["memory"], "prepare": True})
    if workload.write_probe:
        part = _part("write_probe", workload.write_probe.model_dump())
        parts.append({**part, "processes": ["write_probe"]})
    if workload.phase_lock:
        part = _part("phase_lock", workload.phase_lock.model_dump())
        parts.append({**part, "processes": ["phase_lock"]})
    steady = sampling.get("steady", {})
    every = {"every": round(sampling["interval"] / sampling["period"])} if steady else {}
    options = {"period": sampling["period"], "samples": sampling["samples"], **come_and_go}
    parts.append(_part("sampler", {**options, "steady": {**steady, **every}}))
    if experiment.census:
        census = _census(experiment.census)
        parts.append({**_part("census", census), "prepare": census["start"]})
    if workload.load and experiment.processes:
        options = workload.load.options(experiment.processes.model_dump())
        parts.append(_part("load", options))
    if tasks := _parts(workload, count, experiment.sampling.seconds):
        parts.append(_part("workload", {"tasks": tasks}))
    return parts + [
        {**_part(part.name, part.options(value)), "role": part.role}
        for part in outside()
        if (value := getattr(experiment, part.name)) is not None
    ]


def _part(name: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "role": f"ksm.testbed.part_{name}", "options": options}


def _census(census: Census) -> dict[str, Any]:
    return {
        "start": "start" in census.moments,
        "end": "end" in census.moments,
        "at_scan_boundary": "at-scan-boundary" in census.moments,
        "every": census.every or 0,
        "pause": census.pause,
        **({"trace": True} if census.trace else {}),
    }


def _guests(experiment: Experiment, count: int, variant: int, workload: Workload) -> dict[str, Any]:
    guests, chosen = experiment.guests, workload.nosharepages
    return {
        "count": 0 if experiment.population else len(_density_guests(experiment)) or count,
        "memory_mib": guests.memory_mib if guests else 0,
        "disk_gib": guests.disk_gib if guests else 0,
        **(_made_of(experiment, variant) if guests else {"vcpus": 0}),
        "network": _network(guests.network) if guests else None,
        "nosharepages": [n for n in range(1, count + 1) if chosen == "all" or n in (chosen or [])],
        **_later(experiment, count),
        **({"partition": PARTITION} if _density_guests(experiment) else {}),
    }


def _made_of(experiment: Experiment, variant: int) -> dict[str, Any]:
    """Return what the guests of a run are made of, with the definitions of their images."""
    found = asked(_variants(experiment)[variant])
    if "image" in found:
        known = {image.name: image.planned() for image in experiment.images}
        names = found["image"].split("+")
        found["images"] = [known.get(name, {"name": name}) for name in names]
    return found


def _later(experiment: Experiment, count: int) -> dict[str, list[int]]:
    """Number the guests that start within the run, if there are any."""
    changes = _changes(experiment, count)
    later = sorted(number for _, arrives, number in changes if arrives)
    later += range(1, len(_density_guests(experiment)) + 1)
    return {"later": later} if later else {}


def _changes(experiment: Experiment, count: int) -> list[tuple[float, bool, int]]:
    guests = experiment.guests
    return guests.changes(count, experiment.sampling.seconds) if guests else []


def _density_guests(experiment: Experiment) -> list[str]:
    """Name the guests that a density may start, if there is one of guests."""
    density = None if experiment.processes else experiment.density
    return [GUEST.format(number) for number in range(1, density.limit + 1)] if density else []


def _density(experiment: Experiment, count: int) -> list[dict[str, Any]]:
    """Return the part that adds guests to a budget."""
    names = _density_guests(experiment)
    if not names or experiment.density is None:
        return []
    options = {"guests": names, "count": count, **experiment.density.model_dump()}
    return [{**_part("density", options), "processes": names, "prepare": True}]


def _arrivals(experiment: Experiment, count: int) -> list[dict[str, Any]]:
    """Return the part that starts and stops guests within a run."""
    changes = [
        {"at": at, "guest": GUEST.format(number), "arrives": arrives}
        for at, arrives, number in _changes(experiment, count)
    ]
    if not changes:
        return []
    names = [each["guest"] for each in changes if each["arrives"]]
    return [{**_part("arrivals", {"changes": changes}), "processes": names}]


def _notes(guests: dict[str, Any]) -> list[str]:
    """Say what KSM cannot merge in a run, by design: no run is needed to find that out."""
    if why := CANNOT_MERGE.get(guests.get("backing", "")):
        return [f"KSM cannot merge the memory of these guests: {why}"]
    if guests["count"] and len(guests["nosharepages"]) == guests["count"]:
        return ["KSM may not merge the memory of these guests: nosharepages"]
    return []


def _network(network: Network | str) -> str | None:
    if isinstance(network, Network):
        return network.network
    return None if network == "none" else network


def _parts(workload: Workload, count: int, seconds: float) -> list[dict[str, Any]]:
    """List the tasks of the guests. Guests that do the same share a task; idle ones have none."""
    turns = itertools.islice(itertools.cycle(workload.parts), count)
    works = [None if part == "idle" else _work(part, seconds) for part in turns]
    once = [work for i, work in enumerate(works) if work and work not in works[:i]]
    return [
        {"guests": [guest for guest, own in enumerate(works, start=1) if own == work], **work}
        for work in once
    ]


def _work(part: Part, seconds: float) -> dict[str, Any]:
    start, stop = part.window(seconds)
    if part.stress_ng:
        options = part.stress_ng.model_dump(exclude_defaults=True)
        return {"stress_ng": options, "start": start, "stop": stop}
    metrics = {"metrics": part.metrics} if part.metrics else {}
    return {"command": part.command, **metrics, "start": start, "stop": stop}


def _sampling(experiment: Experiment, knobs: dict[str, Any], workload: Workload) -> dict[str, Any]:
    sampling, steady = experiment.sampling, steady_of(experiment.stop)
    planned: dict[str, Any] = {
        "interval": sampling.interval,
        "intervals": sampling.intervals,
        "period": sampling.period,
        "samples": sampling.samples,
        "seconds": sampling.seconds,
    }
    # without scans there is nothing to wait for
    if steady and str(knobs["run"]) == "1":
        planned["steady"] = {**steady.model_dump(), "after": workload.after(sampling.seconds)}
    return planned
