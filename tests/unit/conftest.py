"""Fixtures of the unit tests."""

import pytest
from made_up_runs import Writer


@pytest.fixture
def write_run(tmp_path):
    """Write simulated run directories into one directory of results."""
    return Writer(tmp_path / "results" / "made-up")
