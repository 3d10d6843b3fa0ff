"""The table on the screen: its columns and its width."""

from made_up_runs import run_record, sample_lines

from ksm_analysis.__main__ import main


def shown(capsys, path):
    """Return everything except the title, which is a path."""
    assert main(["summary", str(path.parent)]) == 0
    return capsys.readouterr().out.partition("\n")[2]


def test_pages_unshared_is_shown(capsys, write_run):
    # up to 30,000 that decrease as sharing rises, and 5,000 that never merge
    assert " 5,000 " in shown(capsys, write_run())


def test_length_and_convergence_are_shown_only_where_a_run_may_end_early(capsys, write_run):
    path = write_run(guests=1)
    assert not {"seconds", "verged"} & set(shown(capsys, path).split())

    header, *samples, end = sample_lines(record := run_record(guests=2, converged=True))
    write_run(record, [header, *samples[:13], end | {"reason": "steady"}])
    write_run(run_record(guests=3, converged=False))
    table = shown(capsys, path)

    assert {"seconds", "verged"} <= set(table.split())
    rows = [line.split() for line in table.splitlines() if " idle " in line]
    assert [row[2] for row in rows] == ["4", "3", "4"]
    assert [row[3] for row in rows[1:]] == ["yes", "no"]


def test_runs_without_guests_have_no_column_of_guests(capsys, write_run):
    record = run_record(guests=0, workload="single")
    record["run"]["guests"]["memory_mib"] = 0
    table = shown(capsys, write_run(record))

    assert "guests" not in table.replace(__name__, "").split("made-up")[-1]
    assert "configured" not in table
    assert "unshared" in table


def test_a_long_command_is_folded_and_not_cut(capsys, write_run):
    record = run_record(guests=1)
    record["run"]["factors"]["workload"] = "stress-ng " + " ".join(f"--vm-{n}=1" for n in range(40))
    table = shown(capsys, write_run(record))

    assert max(map(len, table.splitlines())) <= 170
    assert "--vm-39=1" in table
