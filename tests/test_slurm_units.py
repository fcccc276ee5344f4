"""Time limits and memory as text, and back; the expected values are those of `scontrol show job` in SLURM 22.05."""

import math
import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.errors import OptionsError
from experiment_manager.scheduler.slurm.options import (
    LARGEST_MB,
    LONGEST_MIN,
    megabytes,
    memory_text,
    minutes,
    time_text,
)
from tests.conftest import examples


@pytest.mark.parametrize(
    ("expected", "limit"),
    [
        (90, "90"),
        (7, "007"),
        (2, "1:30"),
        (1, "0:30"),
        (1, "0:01"),
        (62, "60:90"),
        (600, "10:00:00"),
        (63, "1:2:3"),
        (1, "0:0:1"),
        (77, "0:75:75"),
        (1440 + 720, "1-12"),
        (1440, "1-0"),
        (2 * 1440 + 60, "1-25"),
        (1440 + 750, "1-12:30"),
        (1440 + 751, "1-12:30:15"),
        (2 * 1440 + 7 * 60 + 12, "1-30:70:70"),
        (3000 * 1440, "3000-0"),
        (0, "UNLIMITED"),
        (0, "Unlimited"),
        (0, "infinite"),
        (0, "-1"),
        (0, "0"),
        (0, "0:0"),
        (0, "00:00:00"),
        (0, "0-0"),
        (90, " 90 "),
    ],
)
def test_time_limits_as_slurm_reads_them(expected: int, limit: str) -> None:
    """Every form of `sbatch --time` is read as SLURM reads it, seconds rounded up."""
    assert expected == minutes(limit)


@pytest.mark.parametrize(("expected", "limit"), [(90, 90), (2, 1.5), (1, 0.01), (0, 0), (0, -1), (0, -1.0), (0, 0.0)])
def test_a_number_is_minutes(expected: int, limit: float) -> None:
    """A number is minutes, rounded up; 0 and -1 are no limit."""
    assert expected == minutes(limit)


@pytest.mark.parametrize(
    "limit",
    [
        "", " ", "10h", "1:2:3:4", "1-2:3:4:5", "1.5", "+90", "1:", ":30", "1::", "-1:30", "-2", "-0", "1-", "1-:",
        "1--1", "inf", "unlimite", "0x10", "1e3", "1_0", "1 :30", "٣", "90\n30", -2, -0.5, True, None, math.nan,
        math.inf, b"90", [90],
    ],
)  # fmt: skip
def test_what_is_no_time_limit(limit: object) -> None:
    """What is no time limit is refused in a sentence that quotes it and shows what is one."""
    with pytest.raises(OptionsError) as refused:
        minutes(limit)  # type: ignore[arg-type]
    assert f"{limit!r} is no time limit; write minutes (90)" in str(refused.value)


def test_slurm_cannot_count_longer() -> None:
    """The longest limit is taken; one minute more, for which SLURM sets 8,000 years without a word, is refused."""
    assert LONGEST_MIN == minutes("35791393") == minutes("24855-3:13")
    for limit in ("35791394", 35_791_394, "999999999-0"):
        with pytest.raises(OptionsError, match="longer time limit than SLURM can count; write UNLIMITED"):
            minutes(limit)


@pytest.mark.parametrize(
    ("expected", "limit"),
    [("UNLIMITED", 0), ("00:01:00", 1), ("10:00:00", 600), ("23:59:00", 1439), ("1-00:00:00", 1440)],
)
def test_time_texts(expected: str, limit: int) -> None:
    """A limit is written with days only when there are some, and none is UNLIMITED."""
    assert expected == time_text(limit)


@examples(200)
@given(st.integers(0, LONGEST_MIN))
def test_time_survives_its_text(limit: int) -> None:
    """Every limit comes back from its text."""
    assert limit == minutes(time_text(limit))


@examples(200)
@given(st.text(alphabet="0123456789-: .hUN", max_size=10))
def test_any_text_is_a_limit_or_refused(text: str) -> None:
    """No text ends otherwise than in a number of minutes that SLURM can count, or in an OptionsError."""
    with suppress(OptionsError):
        assert 0 <= minutes(text) <= LONGEST_MIN


@pytest.mark.parametrize(
    ("expected", "memory"),
    [
        (1000, "1000"),
        (4096, "4G"),
        (4096, "4g"),
        (4096, "4GB"),
        (4096, "4 GB"),
        (4096, " 4 GiB "),
        (512, "512M"),
        (2, "2048K"),
        (3, "2049K"),
        (1, "1K"),
        (1048576, "1T"),
        (1536, "1.5G"),
        (103, "0.1G"),
        (512, ".5G"),
        (2, "1.5"),
        (0, "0"),
        (0, "0G"),
        (1000, 1000),
        (1001, 1000.5),
        (0, 0),
    ],
)
def test_memory(expected: int, memory: str | float) -> None:
    """Memory is SLURM's M, rounded up, with or without a unit; 0 is all memory of the node."""
    assert expected == megabytes(memory)


@pytest.mark.parametrize(
    "memory",
    [
        "", " ", ".", "G", "4X", "4P", "4Gi", "4 G B", "-1", "-1G", "+1G", "1e3", "1_0", "1,5G", "nan", "٣",
        -1, -0.5, True, None, math.nan, math.inf, b"4G", [4],
    ],
)  # fmt: skip
def test_what_is_no_memory(memory: object) -> None:
    """What is no amount of memory is refused in a sentence that quotes it and shows what is one."""
    with pytest.raises(OptionsError, match=re.escape(f"{memory!r} is no amount of memory; write megabytes (1000) or")):
        megabytes(memory)  # type: ignore[arg-type]


@pytest.mark.parametrize("memory", ["1048577T", 2.0**41, 10**30, 1e300])
def test_more_memory_than_there_is(memory: str | float) -> None:
    """An amount that no node has is refused: SLURM would take it and wait for ever."""
    with pytest.raises(OptionsError, match="more memory than any node has"):
        megabytes(memory)


@pytest.mark.parametrize(("expected", "memory"), [("4G", 4096), ("1000M", 1000), ("1024G", 2**20), ("1M", 1), ("0", 0)])
def test_memory_texts(expected: str, memory: int) -> None:
    """Whole gigabytes are written as such."""
    assert expected == memory_text(memory)


@examples(200)
@given(st.integers(0, LARGEST_MB))
def test_memory_survives_its_text(memory: int) -> None:
    """Every amount comes back from its text."""
    assert memory == megabytes(memory_text(memory))


@examples(200)
@given(st.text(alphabet="0123456789. KMGTBi-", max_size=8))
def test_any_text_is_memory_or_refused(text: str) -> None:
    """No text ends otherwise than in a number of megabytes or in an OptionsError."""
    with suppress(OptionsError):
        assert 0 <= megabytes(text) <= LARGEST_MB
