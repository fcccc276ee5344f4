"""Job arrays: every job in exactly one task, within SLURM's limits, under the throttle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.scheduler.arrays import USUAL_LIMITS, Array, arrays
from experiment_manager.scheduler.records import Limits
from experiment_manager.scheduler.slurm.options import SlurmOptions, make

ids = st.lists(st.integers(0, 5000), unique=True, min_size=1, max_size=300)


def made(wanted: list[int], limit: int = 1001, **options: object) -> list[Array]:
    return arrays([(make(options, where="test"), wanted)], Limits(limit, USUAL_LIMITS.text))


@given(wanted=ids, pack=st.integers(1, 5), limit=st.integers(1, 1200))
def test_every_job_is_in_one_task_that_slurm_takes(wanted: list[int], pack: int, limit: int) -> None:
    """No job is lost or doubled, indices stay below MaxArraySize, and the text of --array is short enough."""
    found = made(wanted, limit, pack=pack)
    assert sorted(wanted) == sorted(job for array in found for job in array.jobs)
    for array in found:
        assert max(array.indices) < limit
        assert len(array.text) <= USUAL_LIMITS.text
        assert len(set(array.indices)) == len(array.tasks)
        assert all(len(task) <= pack for task in array.tasks)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8), limit=st.integers(1, 12), throttle=st.integers(1, 20)
)
def test_throttle_holds_for_all_arrays_together(sizes: list[int], limit: int, throttle: int) -> None:
    """However the arrays follow one another, their tasks that can run at the same time are never more than the
    throttle, and no throttle is 0, which would mean none."""
    groups = [
        (make({"array_parallelism": throttle, "mem_gb": n + 1}, where="t"), range(s)) for n, s in enumerate(sizes)
    ]
    found = arrays(groups, Limits(limit, USUAL_LIMITS.text))
    widths = [len(array.tasks) if array.throttle is None else array.throttle for array in found]
    assert all(width > 0 for width in widths)
    chains: dict[int, int] = {}  # the first array of a chain -> the most that any of its arrays runs at a time
    first: list[int] = []
    for place, array in enumerate(found):
        first.append(place if array.after is None else first[array.after])
        assert array.after is None or array.after < place
        chains[first[place]] = max(chains.get(first[place], 0), widths[place])
    assert sum(chains.values()) <= throttle


@pytest.mark.parametrize(
    ("wanted", "limit", "text"),
    [
        ([0, 1, 2], 1001, "0-2"),
        ([3, 7, 8], 1001, "3,7-8"),
        ([999, 1000], 1001, "999-1000"),
        ([1000, 1001], 1001, "0-1"),  # MaxArraySize limits the index
        ([5], 1, "0"),
    ],
)
def test_index_is_the_job_where_it_fits(wanted: list[int], limit: int, text: str) -> None:
    """The index of a task is the id of its job as long as SLURM takes it; else tasks are numbered by position."""
    (array,) = made(wanted, limit)
    assert text == array.text


def test_sparse_ids_that_would_not_fit_the_command_line() -> None:
    """An --array text over SLURM's 4,096 bytes is never written: a table in the script stands for it."""
    (array,) = made(list(range(0, 4000, 2)), 5000)
    assert not array.is_indexed_by_job
    assert "0-1999" == array.text


def test_one_array_per_set_of_options() -> None:
    """Jobs with other options are in another array, under the same ids."""
    small, large = make({"mem_gb": 1}, where="t"), make({"mem_gb": 9}, where="t")
    first, second = arrays([(small, [0, 2]), (large, [1])])
    assert ("0,2", "1") == (first.text, second.text)


def test_chains_when_there_are_more_arrays_than_tasks_may_run() -> None:
    """With a throttle of 2 and five arrays there are two chains, each of one task at a time."""
    found = made(list(range(10)), 2, array_parallelism=2)
    assert [None, None, 0, 1, 2] == [array.after for array in found]
    assert ["0-1%1"] * 5 == [array.text for array in found]


def test_no_options_no_throttle() -> None:
    """What was not set is not written."""
    (array,) = arrays([(SlurmOptions(), [4, 2])])
    assert "2,4" == array.text
