"""What SLURM's commands print. The texts were printed by SLURM 22.05, but for those marked as written by hand."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.model.ids import RangeSet
from experiment_manager.model.records import State
from experiment_manager.scheduler.records import Run
from experiment_manager.scheduler.slurm.parse import (
    final_state,
    is_active,
    parse_config,
    parse_indices,
    parse_sacct,
    parse_squeue,
    parse_time,
    words_in_log,
)

SQUEUE = """\
61|0-3|61|PENDING|BeginTime|1795378478|1-02:04:00||root|em-begin|/home/em/slurm_scripts.sh
60|N/A|60|PENDING|JobHeldUser|N/A|1:00:00||root|em-plain|(null)
59|1,3,5-7|59|PENDING|JobHeldUser|N/A|1:00:00||root|em-list|(null)
58|12-198:2|58|PENDING|JobHeldUser|N/A|1:00:00||root|em-step|(null)
57|0-2,6,8-9%4|57|PENDING|JobHeldUser|N/A|1:00:00||root|em p|x y|/home/a|b/slurm_scripts.sh
128|N/A|128|PENDING|JobHeldUser|N/A|1:00:00||root|em nl
x|y|(null)
103|0|106|PENDING|Nodes required for job are DOWN, DRAINED or reserved|N/A|UNLIMITED||root|em-preempt|(null)
63|0|68|COMPLETING|None|1795374882|1:00:00|n1|root|em-requeue|/home/em/slurm scripts.sh
63|1|63|RUNNING|None|1795374882|1:00:00|n[1-2]|root|em-requeue|/home/em/slurm scripts.sh
"""
RUNS = """\
62|62|TIMEOUT|0:0|1795374878|1795374912|n1|em-timeout
62.batch|62.batch|CANCELLED|0:15|1795374878|1795374913|n1|batch
63_0|68|REQUEUED|0:0|1795374879|1795374881|n1|em-requeue
63_0.batch|68.batch|CANCELLED|0:15|1795374879|1795374882|n1|batch
63_0.0|68.0|COMPLETED|0:0|1795374879|1795374880|n1|sleep
63_1|63|REQUEUED|0:0|1795374879|1795374882|n1|em-requeue
63_1.batch|63.batch|CANCELLED|0:15|1795374879|1795374883|n1|batch
63_1.0|63.0|COMPLETED|0:0|1795374879|1795374880|n1|sleep
63_0|68|RUNNING|0:0|1795374888|Unknown|n1|em-requeue
63_0.batch|68.batch|RUNNING|0:0|1795374888|Unknown|n1|batch
63_1|63|CANCELLED by 0|0:0|1795374889|1795374939|n1|em-requeue
63_1.batch|63.batch|CANCELLED|0:15|1795374889|1795374940|n1|batch
64|64|FAILED|1:0|1795374879|1795374879|n1|em oom|srun
64.batch|64.batch|FAILED|1:0|1795374879|1795374879|n1|batch
64.0|64.0|OUT_OF_MEMORY|0:125|1795374879|1795374879|n1|python3
66_1|70|FAILED|3:0|1795374879|1795374879|n1|em-fail
66_1.batch|70.batch|FAILED|3:0|1795374879|1795374879|n1|batch
66_2|71|FAILED|0:9|1795374879|1795374880|n1|em-fail
72_[0-1%1]|72|CANCELLED by 0|0:0|None|1795374939|None assigned|em-preempt
127_[0-900:3]|127|PENDING|0:0|Unknown|Unknown|None assigned|em-long2
"""


def runs_of(runs: list[Run], array: str, index: int | None) -> list[Run]:
    """The runs of one task, or of a job that is no array; else those of the array that it has not left yet."""
    mine = [run for run in runs if run.array == array]
    own = [run for run in mine if run.array_index == index and run.waiting is None]
    waiting = [run for run in mine if run.waiting is not None and index in run.waiting]
    return own or waiting or [run for run in mine if run.array_index is None and run.waiting is None]


def test_rows_of_squeue() -> None:
    """A row that is no row, the rest of a name with a line break in it, is left out; all others are read."""
    rows = parse_squeue(SQUEUE)
    assert ["61", "60", "59", "58", "57", "128", "103", "63", "63"] == [row.array for row in rows]
    assert [
        list(range(4)), None, [1, 3, 5, 6, 7], list(range(12, 199, 2)), [0, 1, 2, 6, 8, 9], None, [0], [0], [1]
    ] == [None if row.indices is None else list(row.indices) for row in rows]  # fmt: skip
    assert (1795378478.0, None) == (rows[0].start, rows[1].start)


def test_a_name_may_hold_anything() -> None:
    """The separator in a name belongs to it, and so does that in the path of a script; a command is no script."""
    row = parse_squeue(SQUEUE)[4]
    assert ("em p|x y", "/home/a|b/slurm_scripts.sh") == (row.name, row.script)
    assert ("em-list", "") == (parse_squeue(SQUEUE)[2].name, parse_squeue(SQUEUE)[2].script)
    assert "em oom|srun" == runs_of(parse_sacct(RUNS), "64", None)[0].name


def test_a_split_task_of_squeue() -> None:
    """A task that runs has an id of its own, the last one the array's."""
    row = parse_squeue(SQUEUE)[-1]
    assert ("63", "RUNNING", "n[1-2]", "root") == (row.array, row.word, row.node, row.user)


def test_nothing_is_no_row() -> None:
    """Of an empty answer, or one that is no table, nothing is read."""
    assert [] == parse_squeue("")
    assert [] == parse_sacct("")
    assert [] == parse_squeue("slurm_load_jobs error: Unable to contact slurm controller\n")


def test_runs_of_a_requeued_task() -> None:
    """The runs of a task are told in order, though those of others stand between them."""
    runs = parse_sacct(RUNS)
    assert ["REQUEUED", "RUNNING"] == [run.word for run in runs_of(runs, "63", 0)]
    assert ["REQUEUED", "CANCELLED"] == [run.word for run in runs_of(runs, "63", 1)]
    assert [1795374881.0, None] == [run.end_time for run in runs_of(runs, "63", 0)]


def test_out_of_memory_hides_in_a_step() -> None:
    """Under srun the job is FAILED and only its step row tells why; the job keeps its own word."""
    (run,) = runs_of(parse_sacct(RUNS), "64", None)
    assert ("FAILED", 1, 0, State.OUT_OF_MEMORY) == (run.word, run.exit_code, run.signal, run.end)


def test_out_of_memory_belongs_to_one_run() -> None:
    """A step row counts for the run whose row it follows, and for no other run of its task."""
    text = "\n".join(
        [
            "9_0|10|REQUEUED|0:0|5|6|n1|x",
            "9_0.0|10.0|OUT_OF_MEMORY|0:125|5|6|n1|python",
            "9_1|9|OUT_OF_MEMORY|0:125|5|6|n1|x",
            "9_0|10|COMPLETED|0:0|7|8|n1|x",
            "9_0.extern|10.extern|COMPLETED|0:0|7|8|n1|extern",
        ]
    )
    runs = parse_sacct(text)
    assert [State.OUT_OF_MEMORY, State.COMPLETED] == [run.end for run in runs_of(runs, "9", 0)]
    assert [State.OUT_OF_MEMORY] == [run.end for run in runs_of(runs, "9", 1)]


def test_a_signal_is_no_exit_code() -> None:
    """SLURM writes both numbers in one column."""
    runs = parse_sacct(RUNS)
    assert (3, 0) == runs_of(runs, "66", 1)[0][6:8]
    assert (0, 9) == runs_of(runs, "66", 2)[0][6:8]


def test_what_could_not_be_started() -> None:
    """Accounting's code for a task whose log SLURM could not open is told in words."""
    (run,) = parse_sacct(
        "9550|9550|FAILED|0:53|1795673153|1795673153|n1|em\n9550.batch|9550.batch|CANCELLED|0:53|1|1|n1|b"
    )
    assert (53, True) == (run.signal, "its log cannot be opened" in run.why)
    assert "" == parse_sacct("9|9|FAILED|0:9|1|2|n1|em")[0].why


def test_tasks_that_are_not_split_off() -> None:
    """A task of a pending array is answered with the array's row, in steps and with a throttle, and no other index."""
    runs = parse_sacct(RUNS)
    (run,) = runs_of(runs, "72", 1)
    assert ([0, 1], "CANCELLED", None, "") == (list(run.waiting or ()), run.word, run.start, run.node)
    assert "PENDING" == runs_of(runs, "127", 900)[0].word
    assert [] == runs_of(runs, "127", 899)
    assert [] == runs_of(runs, "72", 2)


def test_a_split_task_has_its_own_runs() -> None:
    """Where accounting has both, a task's own row counts and not the older one of its array."""
    runs = parse_sacct("5_[0-3]|5|PENDING|0:0|Unknown|Unknown|None assigned|x\n5_2|8|RUNNING|0:0|9|Unknown|n1|x")
    assert ["RUNNING"] == [run.word for run in runs_of(runs, "5", 2)]
    assert ["PENDING"] == [run.word for run in runs_of(runs, "5", 1)]


def test_an_array_just_submitted() -> None:
    """For a moment accounting shows a fresh array under its bare number: that row is every task's."""
    runs = parse_sacct("12|12|PENDING|0:0|Unknown|Unknown|None assigned|x")
    assert ["PENDING"] == [run.word for run in runs_of(runs, "12", 3)]
    assert [] == runs_of(runs, "13", 3)


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 500), st.integers(1, 9)), min_size=1, max_size=20))
def test_indices_round_trip(parts: list[tuple[int, int, int]]) -> None:
    """Whatever ranges SLURM writes, every index of them is in the set and no other."""
    text = ",".join(f"{low}-{low + length}:{step}" for low, length, step in parts)
    expected = {index for low, length, step in parts for index in range(low, low + length + 1, step)}
    indices = parse_indices(text + "%3")
    assert expected == set(indices)
    assert {index for index in range(5600) if index in indices} == expected


def test_large_ranges_cost_nothing() -> None:
    """A range is held as its ends and its step."""
    indices = parse_indices("0-3999999:2,4000001%8")
    assert (True, False, True) == (3999998 in indices, 4000000 in indices, 4000001 in indices)
    assert 2000001 == len(indices)
    assert RangeSet([range(1, 2)]) == parse_indices("1")


def test_indices_that_slurm_has_cut_off() -> None:
    """Of a list that SLURM has shortened, what stands there is read."""
    assert [1, 4] == list(parse_indices("1,4,9...%7"))


@pytest.mark.parametrize("text", ["N/A", "Unknown", "None", "", "0", "NONE", "2026-13-45T00:00:00"])
def test_a_time_that_is_none(text: str) -> None:
    """SLURM has many words for a time that it does not know."""
    assert parse_time(text) is None


def test_local_times_are_read_too() -> None:
    """A time without a zone is one of this machine."""
    assert time.mktime((2026, 11, 22, 19, 14, 38, 0, 0, -1)) == parse_time("2026-11-22T19:14:38")


def test_settings_of_scontrol() -> None:
    """A line of the configuration is a name and a value; headings are none."""
    text = "Configuration data as of 2026-11-22T19:17:29\nKillWait                = 5 sec\nMaxArraySize       = 1001\n"
    assert {"KillWait": "5 sec", "MaxArraySize": "1001"} == parse_config(text)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("COMPLETED", State.COMPLETED),
        ("CANCELLED by 1000", State.CANCELLED),
        ("CANCELLED+", State.CANCELLED),
        ("BOOT_FAIL", State.NODE_FAIL),
        ("DEADLINE", State.TIMEOUT),
        ("REVOKED", State.CANCELLED),
        ("REQUEUED", State.PREEMPTED),
        ("PENDING", None),
        ("COMPLETING", None),
        ("", None),
    ],
)
def test_what_a_word_of_slurm_means(word: str, expected: State | None) -> None:
    """SLURM's words for an end become ours; words that are no end, or that we do not know, mean nothing."""
    assert expected == final_state(word)


@pytest.mark.parametrize("word", ["PENDING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "BORN_LATER"])
def test_what_slurm_still_has(word: str) -> None:
    """A word that names no end, even one that we do not know, leaves the job with SLURM: unknown is not failed."""
    assert is_active(word)


@pytest.mark.parametrize("word", ["COMPLETED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "DEADLINE"])
def test_what_slurm_has_no_more(word: str) -> None:
    """squeue shows ended jobs for a while."""
    assert not is_active(word)


JOB = "slurmstepd-n1: error: *** JOB 62 ON n1 CANCELLED AT 2026-11-22T19:15:12"
EXCEEDED = "slurmstepd-n1: error: Exceeded job memory limit"
STEP = "slurmstepd-n1: error: *** STEP 106.0 ON n1 CANCELLED AT 2026-11-22T19:16:24"


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (State.TIMEOUT, f"{JOB} DUE TO TIME LIMIT ***"),
        (State.PREEMPTED, f"{STEP} DUE TO PREEMPTION ***\n{JOB} DUE TO PREEMPTION ***"),
        (State.PREEMPTED, f"start 1\n{JOB} DUE TO JOB REQUEUE ***\n"),
        (State.CANCELLED, f"{JOB} ***\n"),
        (State.NODE_FAIL, f"{JOB} DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***"),  # by hand
        (State.CANCELLED, "slurmstepd: error: *** JOB 7 ON n CANCELLED AT 2026-11-22T19:15:12 DUE to SIGNAL 15 ***"),
        (State.OUT_OF_MEMORY, "srun: error: n1: task 0: Out Of Memory\n"),
        (
            State.OUT_OF_MEMORY,
            "Killed\nslurmstepd-n1: error: Detected 1 oom-kill event(s) in StepId=65.batch. Some of your processes",
        ),
        (
            State.OUT_OF_MEMORY,  # by hand, as newer versions write it
            "slurmstepd: error: Detected 1 oom_kill event in StepId=65.batch. Some of the step tasks have been OOM.",
        ),
        (
            State.OUT_OF_MEMORY,  # without cgroups
            f"slurmstepd-n1: error: StepId=9.batch exceeded memory limit (4 > 1), being killed\n{EXCEEDED}\n{JOB} ***",
        ),
        *(
            (State.TIMEOUT, f"[2026-11-27T03:40:00{zone}] error: *** JOB 9 ON n1 CANCELLED AT x DUE TO TIME LIMIT ***")
            for zone in ("", ".123", "Z", "+01:00", ".123456-0330")
        ),
        (None, "[2026-11-26T02:21:48.013+01:00] error: CUDA out of memory\n"),
        (None, "[2026-11-26T02:21:48.013] error: CUDA out of memory\n"),  # a program that logs as SLURM 26.05 does
        (None, f"{STEP} ***\ndone\n"),  # a step that the job ended itself
        (None, "the user's own words: JOB 62 ON n1 CANCELLED AT noon, Out Of Memory, oom-kill\n"),
        (None, "srun: Warning: can't run 1 processes on 2 nodes, setting nnodes to 1\n"),
        (None, ""),
    ],
)
def test_last_words_in_a_log(expected: State | None, text: str) -> None:
    """What SLURM's daemons write at the end of a log tells how it ended a task; what the job writes tells nothing."""
    assert expected == words_in_log(text)


def test_the_last_words_count() -> None:
    """In a log that goes on after a requeue, the later end is the one."""
    assert State.TIMEOUT == words_in_log(f"{JOB} DUE TO JOB REQUEUE ***\nstart 1\n{JOB} DUE TO TIME LIMIT ***\n")
