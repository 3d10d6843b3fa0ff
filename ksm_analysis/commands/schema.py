"""`schema` prints the JSON Schema of experiment files, for editors."""

import argparse

HELP = "print the JSON Schema of experiment files, for editors"
DETAILS = """\
Prints the JSON Schema of experiment files. With it, an editor completes and explains keys, and
marks errors. Files in experiments/ refer to it in their first line. `plan` also checks that times
lie within the run and that keys are compatible.

examples:
  python -m ksm_analysis schema > experiments/experiment.schema.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""


def run(arguments: argparse.Namespace) -> int:
    """Print the schema."""
    import json

    from ksm_analysis.definition import definition

    print(json.dumps(definition.json_schema(), indent=2))
    return 0
