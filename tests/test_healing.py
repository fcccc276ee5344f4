"""Which jobs are submitted again with more, and who of several does it: decided from records alone."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.errors import OptionsError
from experiment_manager.hydra.schema import require_known
from experiment_manager.model.healing import (
    Beginning,
    Claims,
    Death,
    GivenUp,
    Planned,
    Retry,
    bad_nodes,
    claims,
    decide,
    next_try,
    require_raisable,
)
from experiment_manager.model.records import State
from experiment_manager.scheduler.slurm.scheduler import Slurm
from experiment_manager.store.launches import needed_format

OOM, TIMEOUT = State.OUT_OF_MEMORY, State.TIMEOUT
NOBODY = Claims({}, frozenset())


@given(
    mem_gb=st.floats(0.1, 100),
    timeout_min=st.integers(1, 10_000),
    factor=st.floats(1.0001, 10),
    most=st.floats(0.2, 1000),
    max_retries=st.none() | st.integers(0, 5),
    deaths=st.lists(st.sampled_from([OOM, TIMEOUT, State.FAILED, State.CANCELLED]), max_size=60),
)
def test_how_much_more(
    mem_gb: float, timeout_min: int, factor: float, most: float, max_retries: int | None, deaths: list[State]
) -> None:
    """A job gets more each time that it dies so, of what it died for alone, never more than the maximum and never more
    often than it may, and is given up with a reason; whatever else it dies of is not healed."""
    options: dict[str, Any] = {"mem_gb": mem_gb, "timeout_min": timeout_min, "max_retries": max_retries}
    options |= {
        "on_oom": {"mem_gb": f"x{factor}", "max": most},
        "on_timeout": {"timeout_min": f"x{factor}", "max": 600},
    }
    retries = 0
    for state in deaths:
        answer = next_try(state, options, retries)
        if state not in (OOM, TIMEOUT):
            assert answer is None
            continue
        if isinstance(answer, GivenUp):
            name, top = ("mem_gb", most) if state is OOM else ("timeout_min", 600)
            assert options[name] >= top or retries == max_retries
            break
        assert isinstance(answer, Retry)
        retries += 1
        assert (state, retries, options[answer.option]) == (answer.state, answer.retry, answer.was)
        assert answer.was < answer.now <= (most if state is OOM else 600)
        assert answer.option == ("mem_gb" if state is OOM else "timeout_min")
        checked = Slurm().kept(Slurm().options({answer.option: answer.now}, where="test"))
        assert checked[answer.option] >= answer.now
        options[answer.option] = checked[answer.option]
    assert max_retries is None or retries <= max_retries


@st.composite
def launches(draw: st.DrawFn) -> list[Planned]:
    """Launches of people, and of healers that did not see each other."""
    found = []
    for number in range(draw(st.integers(0, 6))):
        attempts = draw(st.dictionaries(st.integers(0, 3), st.integers(1, 3), max_size=3))
        is_healing = draw(st.booleans())
        found.append(Planned(f"{number:04d}", attempts, is_healing, draw(st.booleans()) or not is_healing))
    return found


@given(launches(), st.dictionaries(st.integers(0, 3), st.sets(st.integers(1, 3))), st.data())
def test_one_healer_stands(found: list[Planned], is_there: Mapping[int, set[int]], data: st.DataObject) -> None:
    """Of all that heal the same attempt one stands at most, and none where somebody has it; that it is submitted makes
    none of the others stand, and what is not submitted yet stands on when something else is."""
    first = claims(found, is_there)
    by_number = {one.number: one for one in found}
    taken = [attempt for number in first.standing for attempt in by_number[number].attempts.items()]
    assert len(taken) == len(set(taken))
    for number in first.standing:
        for job, attempt in by_number[number].attempts.items():
            assert number == first.owner[job, attempt]
            assert attempt not in is_there.get(job, ())
    if first.standing:
        submitted = data.draw(st.sampled_from(sorted(first.standing)))
        later = [one._replace(has_begun=True) if one.number == submitted else one for one in found]
        assert first.standing - {submitted} == claims(later, is_there).standing
    deaths = [
        Death(job, OOM, 2, "0001", "a", {"mem_gb": 1, "on_oom": {"mem_gb": "x2", "max": 9}}, 0) for job in range(4)
    ]
    decided = decide(deaths, first)
    again = [job for group in decided.groups for job in group.attempts]
    assert sorted([*again, *decided.left]) == [0, 1, 2, 3]
    assert {job for job in again if (job, 2) in first.owner} == set()


def test_together() -> None:
    """Jobs of one array that get the same are submitted together; one that is given up, or has no rule, is not."""
    rule = {"mem_gb": 1, "on_oom": {"mem_gb": "x2", "max": 4}, "max_retries": 2}
    deaths = [Death(job, OOM, 2, "0001", "a", rule, 0) for job in (3, 5)]
    deaths += [Death(7, OOM, 4, "0003", "c", {**rule, "mem_gb": 2}, 2), Death(8, TIMEOUT, 2, "0001", "a", rule, 0)]
    found = decide(deaths, NOBODY)
    assert [{3: 2, 5: 2}] == [group.attempts for group in found.groups]
    assert {7: "it was submitted again 2 times (max_retries=2)"} == found.given_up


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"on_oom": {"mem_gb": "x1.5", "max": 9}},
            "on_oom raises mem_gb, which is not set; set it, or leave on_oom out",
        ),
        ({"mem_per_cpu": "1G", "on_oom": {"mem_gb": "x2", "max": 9}}, "on_oom raises mem_gb, which is not set"),
        ({"mem_gb": 0, "on_oom": {"mem_gb": "x2", "max": 9}}, "on_oom cannot raise mem_gb=0, which asks for all"),
        ({"mem_gb": 9, "on_oom": {"mem_gb": "x2", "max": 9}}, "which is not above mem_gb=9; raise max"),
        ({"mem_gb": 1, "on_oom": {"mem_gb": "x1", "max": 9}}, "on_oom: mem_gb: x1 is not more than before"),
        ({"mem_gb": 1, "on_oom": {"mem_gb": 1.5, "max": 9}}, "on_oom: mem_gb: 1.5 is no factor; write x1.5 or x2"),
        ({"mem_gb": 1, "on_oom": {"mem_gb": "xtwo", "max": 9}}, "'xtwo' is no factor"),
        ({"mem_gb": 1, "on_oom": {"mem_gb": "x2", "max": "much"}}, "max: 'much' is no number above 0"),
        ({"mem_gb": 1, "on_oom": {"mem_gb": "x2"}}, "does not say max; write {mem_gb: x1.5, max: 256}"),
        ({"mem_gb": 1, "on_oom": {"timeout_min": "x2", "max": 9}}, "'timeout_min' is nothing that this rule can raise"),
        ({"mem_gb": 1, "on_oom": "x2"}, "on_oom: 'x2' is no rule; write how much more a job gets"),
        ({"on_timeout": {"timeout_min": "x2", "max": 9}}, "on_timeout raises timeout_min, which is not set"),
        (
            {"timeout_min": 4, "job_timeout_min": 2, "on_timeout": {"timeout_min": "x2", "max": 9}},
            "on_timeout raises timeout_min, and job_timeout_min ends jobs before that; leave one of them out",
        ),
        ({"mem_gb": 1, "workers": 2, "on_oom": {"mem_gb": "x2", "max": 9}}, "with workers jobs share the memory"),
        ({"mem_gb": 1, "pack": 2, "on_oom": {"mem_gb": "x2", "max": 9}}, "with pack jobs share the memory"),
        ({"exclude_after": 0}, "exclude_after: 0 is no whole number of at least 1"),
    ],
)
def test_refused(options: dict[str, Any], words: str) -> None:
    """Rules that cannot be meant are refused in a sentence."""
    with pytest.raises(OptionsError, match=re.escape(words)):
        require_raisable(Slurm().kept(Slurm().options(options, where="hydra.launcher")), where="hydra.launcher")


def test_refused_here() -> None:
    """`local_pool` has nothing that it could give a job more of, and says so."""
    given = {"on_oom": {"mem_gb": "x2", "max": 9}}
    with pytest.raises(
        OptionsError, match=r"on_oom is no option of local_pool; its jobs share the memory of this machi"
    ):
        require_known(given, ["n_jobs"], prefix="hydra.launcher.", choice="local_pool")


def test_who_has_to_know_the_rule() -> None:
    """A launch without a rule is read by earlier versions; with one it is not: they would submit what must not be."""
    array = {"options": {"mem_gb": 1, "max_retries": 2}}
    assert 1 == needed_format({"slurm": {"arrays": [array]}})
    ruled = {"options": {**array["options"], "on_oom": {"mem_gb": "x2", "max": 9}}}
    assert [4, 4] == [needed_format({"slurm": {"arrays": [ruled]}}), needed_format({"heals": {"launch": "0001"}})]


@given(
    st.lists(
        st.builds(
            Beginning,
            st.sampled_from("abc"),
            st.integers(0, 5),
            st.floats(0, 9, allow_nan=False),
            has_died=st.booleans(),
        )
    ),
    st.integers(1, 3),
)
def test_bad_nodes(found: list[Beginning], after: int) -> None:
    """A node is left out only where so many jobs have died since one last got over its start there, none of which died
    so elsewhere, and never all of those on which jobs have got over theirs."""
    nodes = bad_nodes(found, after)
    well = {one.node for one in found if not one.has_died}
    assert not nodes or well - nodes.keys()
    for node in nodes:
        last = max((one.time for one in found if one.node == node and not one.has_died), default=-1.0)
        died = {one.job_id for one in found if one.node == node and one.has_died and one.time > last}
        assert len(died - {one.job_id for one in found if one.node != node and one.has_died}) >= after
