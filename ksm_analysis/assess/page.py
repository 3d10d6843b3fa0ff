"""The page of an assessment: one file, without scripts."""

import math
from typing import Any

from ksm_analysis.assess import words
from ksm_analysis.assess.words import size
from ksm_analysis.page import sparks
from ksm_analysis.page.drawing import COLOURS
from ksm_analysis.page.render import render
from ksm_analysis.page.tables import of_text
from ksm_analysis.page.tiles import Tile

SHOWN = ("default", "1000 pages / 20 ms", "10000 pages / 20 ms", "advisor, 200 s", "governor")
FIRST = 0.1  # seconds: where the time begins, which is logarithmic
TICKS = {0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3600: "1 h", 36000: "10 h"}
LINKS = {
    "set": "What to set",
    "settings": "Settings",
    "guests": "Guests",
    "risk": "Risk",
    "findings": "Doctor",
}


def page(name: str, found: dict[str, Any]) -> str:
    """Return the page as text."""
    data = {
        "name": name,
        "links": [*LINKS.items()],
        "tried": f"Linux {found['kernel']}. {words.how(found)}",
        "verdict": words.verdict(found),
        "warnings": [words.uncertain(), words.parts(found), *found["read"]["complaints"]],
        "tiles": _tiles(found),
        "lines": _lines(found["curves"]),
        "best": found["best"],
        "settings": of_text(words.SETTING, [words.setting(each) for each in found["settings"]]),
        "guests": of_text(words.GUEST, [words.guest(each) for each in found["guests"]]),
        "exclude": words.to_exclude(found),
        "pairs": of_text(
            ("pair", "in common, of both together"),
            [[" and ".join(each["guests"]), size(each["bytes"])] for each in found["pairs"]],
        ),
        "risk": words.risk(found),
        "tenants": words.tenants(found),
        "findings": of_text(
            ("finding", "severity", "what", "fix"),
            [
                [each[key] for key in ("finding", "severity", "what", "fix")]
                for each in found["findings"]
            ],
            range(4),
        ),
    }
    return render("assess.html.j2", data)


def _tiles(found: dict[str, Any]) -> list[Tile]:
    freed, whole = found["freed"], found["read"]["bytes"] or 1
    percent = max(0.0, 100 * freed["net"] / whole)
    value, unit = size(freed["net"]).split(" ")
    around = f"{size(freed['low'])} to {size(freed['high'])}"
    now, share = f"freed already: {size(freed['now'])}", sparks.share(percent)
    tiles = [
        Tile("Would be freed", value, unit, around, now),
        Tile("Of what was read", f"{percent:.0f}", "%", f"of {size(whole)}", "", share),
    ]
    named = {row["name"]: row for row in found["settings"]}
    for best in found["best"]:
        if row := named.get(best["name"]):
            value, unit = words.seconds(row).rsplit(" ", 1)
            cost = f"{row['cpu_seconds_hour']:,.0f} s of CPU time in the first hour"
            tiles.append(Tile(f"95 % with {row['name']}", value, unit, cost))
    value, unit = size(found["risk"]["needed"]).split(" ")
    tiles.append(Tile("Needed if all is written", value, unit, "of memory and swap"))
    out = len(words.to_exclude(found))
    tiles.append(Tile("To exclude", str(out), f"of {len(found['guests'])}", "guests and processes"))
    return tiles


def _lines(curves: dict[str, list[list[float]]]) -> dict[str, Any] | None:
    """Return what is freed over time, in thousandths of the picture, and its ticks in percent."""
    shown = {name: curves[name] for name in SHOWN if name in curves}
    most = max((max(freed) for _, freed in shown.values()), default=0)
    last = max((times[-1] for times, _ in shown.values()), default=0)
    if most <= 0 or last <= FIRST:
        return None
    wide = math.log(last / FIRST)

    def at(seconds: float) -> float:
        return math.log(max(seconds, FIRST) / FIRST) / wide

    return {
        "curves": [
            {
                "name": name,
                "colour": COLOURS[n],
                "points": " ".join(
                    f"{1000 * at(x):.0f},{1000 * (1 - y / most):.0f}"
                    for x, y in zip([*times, last], [*freed, freed[-1]], strict=True)
                ),
            }
            for n, (name, (times, freed)) in enumerate(shown.items())
        ],
        "x": [(f"{100 * at(x):.1f}", text) for x, text in TICKS.items() if x <= last],
        "y": [(f"{100 * (1 - part):.0f}", size(part * most)) for part in (0, 0.5, 1)],
    }
