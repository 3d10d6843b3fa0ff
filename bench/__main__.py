"""Run the benchmarks, one after the other: python -m bench [NAME ...]."""

import argparse
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent


def main() -> int:
    """Run each script of this directory. If one fails, the others still run."""
    scripts = {path.stem: path for path in sorted(BENCH.glob("[a-z]*.py"))}
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(scripts)}")
    names = parser.parse_args().names or list(scripts)
    unknown = set(names) - set(scripts)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(scripts)}")
    failed = 0
    for name in names:
        print(f"\n== {name}", flush=True)
        failed += subprocess.run([sys.executable, scripts[name]], check=False).returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
