"""Time limits and memory as `sbatch` reads them: text to numbers with the unit in their name, and back. Pure.

Every reading was compared with the TimeLimit and MinMemoryNode that SLURM 22.05 gave to a held job. Where SLURM takes
what cannot be meant (`--time=-2` becomes 8,000 years, `1-` a day) the text is refused here.
"""

import math
import re
from typing import Any, Final, TypeGuard

from experiment_manager.errors import OptionsError

LONGEST_MIN: Final = 35_791_393
"""SLURM counts seconds in 32 bits: one minute more and it sets, without a word, a limit of 8,000 years."""

LARGEST_MB: Final = 2**40

_TIME: Final = re.compile(
    r"(?P<days>[0-9]{1,9})-(?P<h>[0-9]{1,9})(?::(?P<m>[0-9]{1,9})(?::(?P<s>[0-9]{1,9}))?)?"
    r"|(?P<hours>[0-9]{1,9}):(?P<minutes>[0-9]{1,9}):(?P<seconds>[0-9]{1,9})"
    r"|(?P<only>[0-9]{1,9})(?::(?P<rest>[0-9]{1,9}))?"
)
_NO_LIMIT: Final = frozenset({"unlimited", "infinite", "-1"})
_TIME_FORMS: Final = "write minutes (90), minutes:seconds, 10:00:00, 1-12, 1-12:30, 1-12:30:00 or UNLIMITED"

_MEMORY: Final = re.compile(r"(?P<whole>[0-9]{0,15})(?:\.(?P<part>[0-9]{0,15}))?\s*(?:(?P<unit>[kmgt])(?:i?b)?)?")
_BYTES: Final = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_MEMORY_FORMS: Final = "write megabytes (1000) or a unit: 512M, 4G, 1.5G, 1T"


def minutes(value: str | int | float) -> int:
    """The time limit in minutes, rounded up as SLURM does; 0 means no limit, as in SLURM.

    A number is minutes. A text is whatever `sbatch --time` takes: minutes, minutes:seconds, hours:minutes:seconds,
    days-hours, days-hours:minutes, days-hours:minutes:seconds, UNLIMITED or INFINITE; -1 is no limit, too.

    >>> minutes(90), minutes("10:00:00"), minutes("1:30"), minutes("1-12"), minutes("UNLIMITED")
    (90, 600, 2, 2160, 0)

    Raises OptionsError for anything else, and for more than SLURM can count.
    """
    found = _minutes_of_text(value) if isinstance(value, str) else _minutes_of_number(value)
    if found is None:
        raise OptionsError(f"{value!r} is no time limit; {_TIME_FORMS}")
    if found > LONGEST_MIN:
        raise OptionsError(f"{value!r} is a longer time limit than SLURM can count; write UNLIMITED for none")
    return found


def _minutes_of_number(value: Any) -> int | None:
    if not _is_number(value) or (value < 0 and value != -1):
        return None
    return 0 if value == -1 else math.ceil(value)


def _minutes_of_text(text: str) -> int | None:
    if text.strip().lower() in _NO_LIMIT:
        return 0
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    part = {name: int(digits or 0) for name, digits in match.groupdict().items()}
    hours = 24 * part["days"] + part["h"] + part["hours"]
    seconds = part["s"] + part["seconds"] + part["rest"]
    return 60 * hours + part["m"] + part["minutes"] + part["only"] + -(-seconds // 60)


def time_text(minutes: int) -> str:
    """What to write after `--time=`.

    >>> time_text(600), time_text(2160), time_text(0)
    ('10:00:00', '1-12:00:00', 'UNLIMITED')
    """
    if minutes == 0:
        return "UNLIMITED"
    hours, rest = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02}:{rest:02}:00" if days else f"{hours:02}:{rest:02}:00"


def megabytes(value: str | int | float) -> int:
    """Memory in SLURM's M (of 1,048,576 bytes), rounded up; 0 means all memory of the node, as in SLURM.

    A number, or a text without a unit, is M. The units are K, M, G and T, also as GB or GiB, in any case.

    >>> megabytes("1000"), megabytes("4G"), megabytes("1.5 GiB"), megabytes("2049K"), megabytes(0)
    (1000, 4096, 1536, 3, 0)

    Raises OptionsError for anything else.
    """
    found = _megabytes_of_text(value) if isinstance(value, str) else _megabytes_of_number(value)
    if found is None:
        raise OptionsError(f"{value!r} is no amount of memory; {_MEMORY_FORMS}")
    if found > LARGEST_MB:
        raise OptionsError(f"{value!r} is more memory than any node has; {_MEMORY_FORMS}")
    return found


def _megabytes_of_number(value: Any) -> int | None:
    return math.ceil(value) if _is_number(value) and value >= 0 else None


def _megabytes_of_text(text: str) -> int | None:
    match = _MEMORY.fullmatch(text.strip().lower())
    if match is None or not (match["whole"] or match["part"]):
        return None
    part = match["part"] or ""
    amount = int(match["whole"] + part) * _BYTES[match["unit"] or "m"]  # in whole numbers: 0.1G is 102.4M, exactly
    scale: int = 10 ** len(part)
    return -(-amount // (scale * _BYTES["m"]))


def memory_text(megabytes: int) -> str:
    """What to write after `--mem=`.

    >>> memory_text(4096), memory_text(1000), memory_text(0)
    ('4G', '1000M', '0')
    """
    if megabytes == 0:
        return "0"
    return f"{megabytes}M" if megabytes % 1024 else f"{megabytes // 1024}G"


def _is_number(value: Any) -> TypeGuard[int | float]:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)
