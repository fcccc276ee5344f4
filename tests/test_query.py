"""What the queue and accounting say together about one array. The texts are SLURM 22.05's, of moments when it lags."""

from experiment_manager.scheduler.query import ArrayReport, reports
from experiment_manager.scheduler.slurm.parse import is_refused, parse_sacct, parse_squeue

RESTARTED = """\
880_0|880|REQUEUED|0:0|1795379746|1795379746|n1|em
880_0|880|REQUEUED|0:0|1795379747|1795379747|n1|em
880_0|880|REQUEUED|0:0|1795379749|1795379749|n1|em
"""
BEGINS = "880|880|PENDING|0:0|1795379751|Unknown|None assigned|em\n"
"""The fourth run: it runs, and accounting calls it so for more than a second."""


def told(queue: str = "", accounting: str | None = "") -> ArrayReport:
    rows = [row for row in parse_squeue(queue) if not is_refused(row)]
    return reports(["em"], rows, None if accounting is None else parse_sacct(accounting))["em"]


def test_earlier_runs_tell_nothing_of_the_last() -> None:
    """A run that accounting does not know yet has not ended, whatever became of the runs before it."""
    for accounting in (RESTARTED, RESTARTED + BEGINS):
        assert ["REQUEUED"] * 3 == [
            run.word for restart in range(3) if (run := told("", accounting).run("880", 0, restart, 1795379745.0))
        ]
        assert told("", accounting).run("880", 0, 3, 1795379751.5) is None


def test_queue_tells_an_end_before_accounting() -> None:
    """What squeue shows as ended has ended so, where accounting tells of earlier runs only, or of nothing."""
    row = "880|0|880|FAILED|NonZeroExitCode|1795379751|1:00:00|n1|root|em|/h/s.sh\n"
    for accounting in (RESTARTED + BEGINS, BEGINS, "", None):
        run = told(row, accounting).run("880", 0, 3, 1795379751.5)
        assert run is not None
        assert ("880_0", "FAILED", "n1") == (run.task, run.word, run.node)
        last = told(row, accounting).last_run(0)
        assert last is not None
        assert "FAILED" == last.word


def test_accounting_tells_more_once_it_has_caught_up() -> None:
    """Where both say the same of a run, accounting has its exit code."""
    row = "880|0|880|FAILED|NonZeroExitCode|1795379751|1:00:00|n1|root|em|/h/s.sh\n"
    caught_up = RESTARTED + "880_0|880|FAILED|9:0|1795379751|1795379752|n1|em\n"
    last, run = told(row, caught_up).last_run(0), told(row, caught_up).run("880", 0, 3, 1795379751.5)
    assert last is not None
    assert 9 == last.exit_code
    assert last == run


def test_a_run_that_accounting_has_lost() -> None:
    """With fewer rows than restarts the last row counts when it ended after the attempt began."""
    run = told("", RESTARTED).run("880", 0, 7, 1795379748.5)
    assert run is not None
    assert 1795379749.0 == run.end_time
    assert told("", RESTARTED).run("880", 0, 7, 1795379749.5) is None


def test_the_last_run_of_what_is_gone() -> None:
    """Where SLURM was asked for the array itself and has the task no more, the last run is the one that is meant, also
    where the clock of its node is ahead; what was taken back has run again since."""
    ends = RESTARTED + "880_0|880|FAILED|9:0|1795379750|1795379752|n1|em\n"
    ahead = 1795379752.0 + 600
    assert told("", ends).run("880", 0, 7, ahead) is None
    run = told("", ends).as_final().run("880", 0, 7, ahead)
    assert run is not None
    assert 9 == run.exit_code
    assert told("", RESTARTED).as_final().run("880", 0, 7, ahead) is None
    runs = "880|0|880|RUNNING|None|1795379751|1:00:00|n1|root|em|/h/s.sh\n"
    assert told(runs, ends).as_final().run("880", 0, 7, ahead) is None


def test_a_row_of_the_bare_id_is_of_one_task() -> None:
    """For a moment accounting calls a task that was requeued by the id of its array alone: which task is not known."""
    row = "880|880|REQUEUED|0:0|1795379747|1795379747|n1|em\n"
    assert told("", row).last_run(1) is None
    pending = told("", "880|880|PENDING|0:0|Unknown|Unknown|None assigned|em\n").last_run(1)
    assert pending is not None
    assert "PENDING" == pending.word


def test_the_newest_submission_counts() -> None:
    """Of a script that was submitted twice the last run is that of the later one, and each attempt has its own."""
    accounting = "90_0|90|FAILED|1:0|10|11|n1|em\n101_0|101|FAILED|2:0|12|13|n1|em\n"
    row = "90|0|90|FAILED|NonZeroExitCode|10|1:00:00|n1|root|em|/h/s.sh\n"
    last, first = told(row, accounting).last_run(0), told(row, accounting).run("90", 0, 0, 10.0)
    assert last is not None
    assert first is not None
    assert ("101_0", "90_0") == (last.task, first.task)


def test_what_slurm_refused_is_no_job() -> None:
    """A row that squeue keeps of a refused submission says nothing, unless accounting knows the job."""
    row = "67|0-3|67|FAILED|BadConstraints|N/A|1:00:00||root|em|/h/s.sh\n"
    assert not told(row).knows_anything()
    assert told(row, "67_[0-3]|67|FAILED|1:0|Unknown|10|None assigned|em\n").knows_anything()


def test_tasks_that_were_seen() -> None:
    """All tasks that either of the two knows, split off or not; jobs of other names are others."""
    rows = (
        "391|0-2,4-5%2|391|PENDING|Resources|N/A|1:00:00||root|em|/h/s.sh\n"
        "391|3|392|RUNNING|None|9|1:00:00|n1|root|em|/h/s.sh\n"
    )
    accounting = (
        "391_7|393|COMPLETED|0:0|9|9|n1|em\n"
        "391_[8-9]|391|PENDING|0:0|Unknown|Unknown|n1|em\n"
        "400_11|400|FAILED|1:0|9|9|n1|x\n"
    )
    assert {0, 1, 2, 3, 4, 5, 7, 8, 9} == told(rows, accounting).indices()
    assert set() == told().indices()
