"""Find out which form a file has, and read it."""

from ksm_analysis.errors import InputError
from ksm_analysis.results.imports import dump, original, table
from ksm_analysis.results.imports.log import Log, printable
from ksm_analysis.results.imports.series import Options

FORMS = (
    "a log of the original framework; a table (CSV) whose first line names counters of KSM; or the "
    "output of `grep . /sys/kernel/mm/ksm/*`"
)


def parse(data: bytes, name: str, options: Options) -> Log:
    """Read a file of any form. Raises InputError if it has none, or cannot be read."""
    text = data.decode("utf-8-sig", errors="backslashreplace")
    if "Interval " in text or "num_intervals=" in text or "vm_pid_array=" in text:
        return original.parse(data, name, options.page_size)
    if dump.looks_like(text):
        return dump.parse(data, name, options)
    if table.looks_like(text, options):
        return table.parse(data, name, options)
    first = printable(text.lstrip().partition("\n")[0])[:60]
    what = f"begins with {first}" if first else "is empty"
    raise InputError(f"{name}: this {what}, and is in no known form: {FORMS}")
