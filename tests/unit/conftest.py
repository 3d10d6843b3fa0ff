"""What unit tests share."""

import pytest
from made_up_runs import Writer


@pytest.fixture
def write_run(tmp_path):
    """Write made-up run directories below one directory of results."""
    return Writer(tmp_path / "results" / "made-up")
