"""Import the sampler, a script that is copied to hosts and not part of a package."""

import importlib.util
from pathlib import Path

SAMPLER = Path(__file__).resolve().parents[1] / "roles/part_sampler/files/ksm_sampler.py"

_spec = importlib.util.spec_from_file_location("ksm_sampler", SAMPLER)
ksm_sampler = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(ksm_sampler)
