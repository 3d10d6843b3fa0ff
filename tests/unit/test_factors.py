"""One identity of a cell, for all that group runs."""

from hypothesis import given
from hypothesis import strategies as st
from programs import PLUGINS, load

from ksm_analysis.analysis import comparison
from ksm_analysis.commands import compare
from ksm_analysis.definition import factors
from ksm_analysis.page import figures, tables
from ksm_analysis.results.record import Factors
from ksm_analysis.results.run import Cell

assign_runs = load(PLUGINS / "filter/assign_runs.py")
VALUES = st.fixed_dictionaries(
    {name: st.text() for name in (*factors.FACTORS, factors.REPETITION)},
    optional={"page": st.integers(), "policy": st.text()},
)


@given(VALUES)
def test_the_controller_groups_runs_as_readers_do(values):
    assert assign_runs.cell(values) == factors.cell(values)


def test_every_list_of_factors_has_all():
    # the label of the workload has the number of processes, so readers need not group by it
    alone = {"processes"}
    assert set(Factors.model_fields) == {*factors.FACTORS, factors.REPETITION, *alone}
    assert set(Cell._fields) == {"host", *factors.FACTORS}
    assert {"guests", *figures.FACTORS} == set(tables.FACTORS) == set(Cell._fields)
    assert set(comparison.FACTORS) == {"sampling", *Cell._fields}
    assert compare.FACTORS == comparison.FACTORS
