"""Read what `grep . /sys/kernel/mm/ksm/*` prints, once or several times in a file.

A line that is a time, such as that of `date +%s` or `date --iso-8601=seconds`, is that of the next
dump. Without such lines, dumps are a period apart.
"""

import hashlib
import re

from ksm_analysis.results.imports.counters import NAMES
from ksm_analysis.results.imports.log import Log, plain
from ksm_analysis.results.imports.series import Options, Row, log_of, moment, number, torn_row

_LINE = re.compile(r"(?:/sys/kernel/mm/ksm/)?([a-z_]+)\s*[:=]\s*(.*)")


def looks_like(text: str) -> bool:
    """Whether the first lines are those of a dump."""
    found = [_LINE.fullmatch(line.strip()) for line in text.splitlines()[:20]]
    return any(match and match[1] in NAMES for match in found)


def parse(data: bytes, name: str, options: Options) -> Log:
    """Read dumps. Raises InputError if there are none."""
    rows: list[Row] = []
    other, at, here = [], None, None
    whole = plain(data)
    for line, text in enumerate(whole.split("\n"), 1):
        match = _LINE.fullmatch(text.strip())
        if match and match[1] in NAMES:
            if here is None or match[1] in here.values:
                here = Row(line, at, {})
                rows.append(here)
            here.values[match[1]] = number(match[2])
        elif text.strip() and (time := moment(text)) is not None:
            at, here = time, None
        elif text.strip():
            other.append(text.strip())
    torn = bool(rows and here is rows[-1]) and not whole.endswith("\n")
    cut_short = torn_row(rows, rows[-1].line) if torn else None
    sha256 = hashlib.sha256(data).hexdigest()
    return log_of(rows, name, options, sha256=sha256, other=other, cut_short=cut_short)
