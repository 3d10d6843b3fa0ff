"""Fixtures of the unit tests."""

import pytest
from made_up_runs import Writer


@pytest.fixture
def write_run(tmp_path):
    """Write simulated run directories into one directory of results."""
    return Writer(tmp_path / "results" / "made-up")


@pytest.fixture(autouse=True, scope="session")
def _figures_are_checked():
    """Let Plotly check each figure that a test makes; the page is made without."""
    from ksm_analysis.page import drawing

    drawing.CHECKS = True
