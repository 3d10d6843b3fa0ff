"""A second experiment, of those settings that the first cannot distinguish from the best."""

from collections.abc import Iterator
from typing import Any

from ksm_analysis.analysis.best import best_of
from ksm_analysis.analysis.settings import settings_of
from ksm_analysis.definition.policies import NONE, labelled
from ksm_analysis.errors import InputError
from ksm_analysis.metrics.measurement import Measured

Asked = frozenset[tuple[str, str]]


def definition(first: dict[str, Any], measured: list[Measured], repetitions: int) -> dict[str, Any]:
    """Return the definition of an experiment that confirms the best settings of another.

    `first` is the definition of the other, as YAML has it, and `measured` are its runs. `knobs`,
    `thp` and `policies` keep the entries of settings that may be best for any guests and workload,
    and those with `run: 0`, as the baseline. Its runs are fresh: they played no part in the
    selection. Raise InputError if no setting may be best, or if the runs are of another definition.
    """
    chosen = list(_chosen(measured))
    if not chosen:
        raise InputError("--confirm: no settings there can be compared, so there is no best")
    found = dict(first)
    for key, wanted in (
        ("knobs", [knobs for knobs, _, _ in chosen]),
        ("thp", [thp for _, thp, _ in chosen]),
    ):
        if key in first:
            found[key] = [
                each for each in first[key] if _is_off(each) or _asked(key, each) in wanted
            ]
            missing = [each for each in wanted if each not in [_asked(key, e) for e in first[key]]]
            if missing:
                words = ", ".join(f"{name}: {value}" for name, value in sorted(missing[0]))
                raise InputError(f"--confirm: the file has no entry {{{words}}} in '{key}'")
    if "policies" in first:
        names = {name for _, _, name in chosen}
        found["policies"] = [each for each in first["policies"] if labelled(each) in names]
    note = f"Confirms the best settings with {repetitions} fresh repetitions."
    return found | {"note": f"{first.get('note', '')} {note}".strip(), "repetitions": repetitions}


def _chosen(measured: list[Measured]) -> Iterator[tuple[Asked, Asked, str]]:
    """Yield knobs, huge pages and policy of each run of a setting that may be best."""
    best = {
        (setting.guests, setting.workload, setting.knobs)
        for each in best_of(settings_of(measured))
        for setting in each.settings
    }
    for each in measured:
        cell = each.run.cell
        if (cell.guests, cell.workload, cell.knobs) in best:
            plan = each.run.plan
            advisor = bool(plan.policy and plan.policy.kind == "advisor")  # it adds its knobs
            knobs = {
                k: v for k, v in plan.knobs.items() if not (advisor and k.startswith("advisor_"))
            }
            name = plan.policy.name if plan.policy else NONE.label
            yield _asked("knobs", knobs), _asked("thp", plan.thp), name


def _asked(key: str, values: dict[str, Any]) -> Asked:
    """Return what an entry asks for. `run` is 1 if it is left out."""
    default = {"run": 1} if key == "knobs" else {}
    return frozenset((str(name), str(value)) for name, value in {**default, **values}.items())


def _is_off(values: dict[str, Any]) -> bool:
    return str(values.get("run", 1)) == "0"
