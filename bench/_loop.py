"""A simple policy to compare with: ksmd runs at full rate while memory grows or a scan gains."""

import re
import time
from pathlib import Path

KSM = Path("/sys/kernel/mm/ksm")
FULL_RATE = {"smart_scan": 0, "pages_to_scan": 10000, "sleep_millisecs": 20}
GROWN_KIB = 1024  # more than the other programs of a host grow by the way
PERIOD = 0.25


def number(name):
    """Return a counter or knob of KSM."""
    return int((KSM / name).read_text())


def write(knobs):
    """Set knobs."""
    for name, value in knobs.items():
        (KSM / name).write_text(str(value))


def main():
    """Run until it is ended."""
    write(FULL_RATE)
    least, saved, since, running = 0, 0, 0, False
    while True:
        anonymous = int(re.search(r"AnonPages: *(\d+)", Path("/proc/meminfo").read_text())[1])
        scans, least = number("full_scans"), min(least, anonymous)
        if anonymous > least + GROWN_KIB:
            least, since, saved, running = anonymous, scans, number("pages_sharing"), True
            write({"run": 1})
        elif running and scans >= since + 3:  # whole scans: one for checksums, one to merge
            gained, saved = number("pages_sharing") - saved, number("pages_sharing")
            since, running = scans, gained > 0
            write({"run": int(running)})
        time.sleep(PERIOD)


if __name__ == "__main__":
    main()
