"""Find out which form a file has, and read it."""

import re

from ksm_analysis.errors import InputError
from ksm_analysis.results.imports import dump, original, table
from ksm_analysis.results.imports.log import Log, plain
from ksm_analysis.results.imports.series import Options

ORIGINAL = re.compile(r"^\s*(Interval\s+\d+\s*:|num_intervals=|vm_pid_array=)", re.MULTILINE)
FORMS = (
    "a log of the original framework; a table (CSV) whose first line names counters of KSM; or the "
    "output of `grep . /sys/kernel/mm/ksm/*`"
)


def parse(data: bytes, name: str, options: Options) -> Log:
    """Read a file of any form. Raises InputError if it has none, or cannot be read."""
    text = plain(data)
    is_table = not ORIGINAL.search(text) and not dump.looks_like(text)
    if not is_table and (options.columns or options.time is not None):
        raise InputError(f"{name}: --map and --time are only for tables, and this is none")
    if ORIGINAL.search(text):
        return original.parse(data, name, options.page_size)
    if dump.looks_like(text):
        return dump.parse(data, name, options)
    if table.looks_like(text, options):
        return table.parse(data, name, options)
    first = text.lstrip().partition("\n")[0][:60]
    what = f"begins with {first}" if first else "is empty"
    raise InputError(f"{name}: this {what}, and is in no known form: {FORMS}")
