"""What a job asks of SLURM: the one record of options, checked when it is made. Pure.

The names are those of hydra-submitit-launcher, so that a user of it changes one word. Nothing is set by default: what
is not set is not written into a script. Every Hydra program imports this, so it imports next to nothing.

Time limits and memory are read as `sbatch` reads them; every reading was compared with the TimeLimit and MinMemoryNode
that SLURM 22.05 gave to a held job. What SLURM takes and nobody can want (`--time=-2` becomes 8,000 years, `1-` a day)
is refused.
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeGuard

from experiment_manager.errors import OptionsError

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


_MOST: Final = 2**31 - 1
_MOST_S: Final = 65_535  # `--signal=B:USR1@65536` is "Invalid --signal specification"


def _count(least: int, most: int = _MOST) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 20:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            bounds = f"of at least {least}" if most == _MOST else f"from {least} to {most}"
            raise OptionsError(f"{value!r} is no whole number {bounds}")
        return value

    return check


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise OptionsError(f"{value!r} is neither true nor false")
    return value


def _line(value: Any) -> str:
    """One line of text. A whole number is text, too, as in Hydra: an account may be called 1234."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        raise OptionsError(f"{value!r} is no text; put it in quotes if it is meant as text")
    if any(sign in "\n\r\0\x85\u2028\u2029" or "\ud800" <= sign <= "\udfff" for sign in text):
        raise OptionsError(f"{value!r} holds a line break, a NUL or half a letter; write one line, or a list of lines")
    return text


def _text(value: Any) -> str:
    if not _line(value).strip():
        raise OptionsError(f"{value!r} is empty; leave the option out instead")
    return _line(value)


def _lines(value: Any) -> tuple[str, ...]:
    """Lines of a shell; `true` and `false` are commands there, and YAML and Hydra read them as truth values."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)
    items: Sequence[Any] = value if is_list else (value,)
    return tuple(_line(str(item).lower() if isinstance(item, bool) else item) for item in items)


def _words(value: Any) -> tuple[str, ...]:
    from shlex import split

    if not isinstance(value, str):
        return _lines(value)
    text = _text(value)
    try:
        return tuple(split(text))
    except ValueError as error:
        raise OptionsError(f"{value!r} cannot be split into words ({error}); write a list of words") from None


def _gigabytes(value: Any) -> float:
    try:
        number = float("nan" if isinstance(value, bool) else value)
        megabytes(number * 1024)
    except (OptionsError, TypeError, ValueError, OverflowError):
        raise OptionsError(f"{value!r} is no number of gigabytes; write 4 or 0.5, or 0 for all of a node") from None
    return number


def _share(value: Any) -> float:
    try:
        share = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        share = float("nan")
    if not (0 <= share <= 1 or (share <= _MOST and share == int(share))):
        raise OptionsError(f"{value!r} is no share of GPUs; write 1, 2, a fraction such as 0.5, or 0 to share them all")
    return share


def _job_limit(value: Any) -> float:
    from experiment_manager.model.policy import job_limit_min  # which programs without a sweep do not need

    return job_limit_min(value)


def _start_method(value: Any) -> str:
    from experiment_manager.model.policy import start_method

    return start_method(value)


def _rule(option: str) -> Callable[[Any], dict[str, Any]]:
    def check(value: Any) -> dict[str, Any]:
        from experiment_manager.model.healing import checked_rule  # which programs without such a rule do not need

        return checked_rule(value, option)

    return check


def _memory(value: Any) -> str:
    return memory_text(megabytes(value))


_WRITTEN_HERE: Final = {
    "array": "array_parallelism",
    "error": "stderr_to_stdout or submitit_folder",
    "job-name": "name",
    "open-mode": "nothing: logs are always appended to",
    "output": "stderr_to_stdout or submitit_folder",
    "parsable": "nothing: the id of the job is read anyway",
    "signal": "signal_delay_s",
    "test-only": "the launcher that only writes the script",
    "wait": "the option wait",
    "wrap": "the option wrap",
}
"""Long options of `sbatch` that are written here, and what to use instead."""


def _additional(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise OptionsError(f"{value!r} is no mapping of sbatch's long options, such as {{mail-type: END}}")
    found: dict[str, Any] = {}
    for key, given in value.items():
        name = _long_option(key)
        if name in found:
            raise OptionsError(f"{name!r} is there twice; write it once, with dashes or underscores")
        if given is not None:
            found[name] = _parameter(name, given)
    return found


def _long_option(key: Any) -> str:
    name = key.removeprefix("--").replace("_", "-") if isinstance(key, str) else ""
    letters = name.replace("-", "")
    if len(letters) < 2 or name.startswith("-") or not (letters.isascii() and letters.isalnum() and letters.islower()):
        raise OptionsError(f"{key!r} is no long option of sbatch; write one like mail-type or mail_type")
    for ours, instead in _WRITTEN_HERE.items():
        if ours.startswith(name):  # sbatch takes `--outp` for `--output`
            raise OptionsError(f"{key!r} is written by the experiment manager itself; use {instead}")
    return name


def _parameter(name: str, value: Any) -> Any:
    is_number = isinstance(value, int | float) and value is not False and abs(value) < float("inf")
    if not (is_number or isinstance(value, str)):
        raise OptionsError(f"{name}={value!r} is neither text nor a number nor true; leave it out to have it off")
    return _line(value) if isinstance(value, str) else value


def _option(doc: str, check: Callable[[Any], Any], default: Any = None) -> Any:
    made: Any = {"default_factory": dict} if default == {} else {"default": default}
    return field(**made, hash=default != {}, metadata={"doc": doc, "check": check})


def _rule_option(doc: str, option: str) -> Any:
    return field(default=None, hash=False, metadata={"doc": doc, "check": _rule(option)})


@dataclass(frozen=True, kw_only=True, slots=True)
class SlurmOptions:
    """The options of SLURM jobs; None, () and {} are "not set". Made by `make`, which checks them."""

    timeout_min: int | None = _option("time limit of a task, in minutes; 0: none", minutes)
    mem_gb: float | None = _option("memory per node in GB (1,024 MB); 0: all memory of the node", _gigabytes)
    nodes: int | None = _option("nodes per task of the array", _count(1))
    tasks_per_node: int | None = _option("processes to start on each node", _count(1))
    cpus_per_task: int | None = _option("processors per process", _count(1))
    gpus_per_node: int | None = _option("GPUs on each node; 0: none", _count(0))
    cpus_per_gpu: int | None = _option("processors per GPU", _count(1))
    gpus_per_task: int | None = _option("GPUs per process; 0: none", _count(0))
    mem_per_gpu: str | None = _option("memory per GPU, such as 8G", _memory)
    mem_per_cpu: str | None = _option("memory per processor, such as 2000M", _memory)
    name: str | None = _option("name of the SLURM job", _text)
    partition: str | None = _option("partition, or several with commas between", _text)
    qos: str | None = _option("quality of service", _text)
    comment: str | None = _option("a comment that SLURM keeps with the job", _text)
    constraint: str | None = _option("features that a node must have", _text)
    exclude: str | None = _option("nodes to stay away from, such as n[1-3]", _text)
    gres: str | None = _option("generic resources, such as gpu:a100:2", _text)
    account: str | None = _option("account that pays", _text)
    signal_delay_s: int | None = _option("how many seconds before its time limit a job is warned", _count(0, _MOST_S))
    max_num_timeout: int | None = _option("how often a job that ran into its time limit is started again", _count(0))
    array_parallelism: int | None = _option("tasks that may run at the same time", _count(1))
    setup: tuple[str, ...] = _option("shell lines at the start of the script, before pre_script", _lines, ())
    additional_parameters: Mapping[str, Any] = _option("more long options of sbatch: {mail-type: END}", _additional, {})
    stderr_to_stdout: bool = _option("errors go into the log of the output", _truth, False)
    submitit_folder: str | None = _option("folder for submitit's own files", _text)
    pre_script: tuple[str, ...] = _option("shell lines before the job", _lines, ())
    post_script: tuple[str, ...] = _option("shell lines after the job, whatever became of it", _lines, ())
    wrap: tuple[str, ...] = _option("words put before the job's command, such as a call of a container", _words, ())
    pack: int | None = _option("jobs that each task of the array runs at the same time", _count(1))
    workers: int | None = _option("so many tasks, each of which runs one job after the other", _count(1))
    max_retries: int | None = _option(
        "how often workers take a job again whose worker died, or on_oom and on_timeout submit one again", _count(0)
    )
    start_method: str | None = _option("how the jobs of workers begin: spawn, or forkserver", _start_method)
    gpus_per_job: float | None = _option("GPUs of each job that is packed; 0: all see all of the task", _share)
    max_requeues: int | None = _option("how often SLURM may put a task back into its queue", _count(0))
    on_oom: Mapping[str, Any] | None = _rule_option(
        "a job that was killed for memory is submitted again with more: {mem_gb: x1.5, max: 256}", "mem_gb"
    )
    on_timeout: Mapping[str, Any] | None = _rule_option(
        "one that ran into its time limit is submitted again with more: {timeout_min: x2, max: 2880}", "timeout_min"
    )
    exclude_after: int | None = _option("nodes on which so many jobs died at their start are left out later", _count(1))
    resources_from: str | None = _option("node of the job's configuration with options for this job alone", _text)
    mail: str | None = _option("address that SLURM writes to when an array has ended or failed", _text)
    job_timeout_min: float | None = _option("time limit of each job, in minutes, such as 0.5", _job_limit)
    wait: bool = _option("stay until all jobs have ended", _truth, False)


FIELDS: Final = {one.name: one for one in fields(SlurmOptions)}

SHORT_NAMES: Final = {
    "n_gpus": "gpus_per_node",
    "n_cpus": "cpus_per_task",
    "n_nodes": "nodes",
    "memory": "mem_gb",
    "time": "timeout_min",
}
RUNNERS: Final = ("python_runner", "job_runner")

_SBATCH_NAME: Final = {"timeout_min": "time", "mem_gb": "mem", "tasks_per_node": "ntasks-per-node"}  # else: with dashes

_ONE_OF: Final = (
    ("mem", "mem-per-cpu", "mem-per-gpu"),
    ("cpus-per-task", "cpus-per-gpu"),
    ("gpus-per-node", "gres"),
    ("requeue", "no-requeue"),
)
"""`sbatch` refuses two of a group, "--mem, --mem-per-cpu, and --mem-per-gpu are mutually exclusive": those of
processors from 22.05 on, a number of GPUs beside `gres` on 26.05; of the last pair it takes the last one."""
_GPU: Final = r"(?:^|,)\s*(?:gres[/:])?gpu(?=[:,(]|$)"


def valid_options() -> tuple[str, ...]:
    """The names of all options, in the order of the record."""
    return tuple(FIELDS)


def make(values: Mapping[str, Any], *, where: str) -> SlurmOptions:
    """The checked record of the options in `values`; a value None is not set. `where` begins every error.

    >>> make({"nodes": "2", "timeout_min": "1:00:00"}, where="SLURM").timeout_min
    60

    Raises OptionsError for an unknown option, for a value that cannot be meant, and for two that contradict each other.
    """
    return record({name: (name, value) for name, value in values.items()}, where=where, names=valid_options())


def as_mapping(options: SlurmOptions) -> dict[str, Any]:
    """The options that are set, ready for JSON; `make` takes them back.

    >>> as_mapping(make({"nodes": 2, "setup": "module load cuda"}, where="SLURM"))
    {'nodes': 2, 'setup': ['module load cuda']}
    """
    unset = SlurmOptions()
    found: dict[str, Any] = {}
    for name in FIELDS:
        value = getattr(options, name)
        if value != getattr(unset, name):
            plain: Any = list if isinstance(value, tuple) else dict if isinstance(value, Mapping) else None
            found[name] = plain(value) if plain else value
    return found


def record(given: Mapping[Any, tuple[Any, Any]], *, where: str, names: Sequence[str]) -> SlurmOptions:
    """The record of what `given` maps an option to: what the user called it, and the value."""
    checked: dict[str, Any] = {}
    for name, (called, value) in given.items():
        if name not in FIELDS:
            raise OptionsError(_unknown(called, where, names))
        if value is not None:
            checked[name] = checked_value(name, (called, value), where)
    _check_exclusive(checked, where)
    if checked.get("gpus_per_job") is not None and checked.get("pack", 1) == 1:
        raise OptionsError(
            f"{where}: gpus_per_job divides the GPUs of a task among jobs that are packed into it, and pack is not "
            "set; ask for gpus_per_node where each job is a task of its own"
        )
    if (limit := checked.get("job_timeout_min")) is not None and 0 < (checked.get("timeout_min") or 0) < limit:
        raise OptionsError(
            f"{where}: job_timeout_min={limit:g} is longer than timeout_min={checked['timeout_min']}, at which SLURM "
            "ends the whole task; raise timeout_min, or lower job_timeout_min"
        )
    rules = [name for name in ("on_oom", "on_timeout") if checked.get(name) is not None]
    if checked.get("max_retries") is not None and checked.get("workers") is None and not rules:
        raise OptionsError(
            f"{where}: max_retries is for jobs that workers take again, and workers is not set; set it, or on_oom or "
            "on_timeout, or use max_requeues, by which SLURM starts a task again"
        )
    _check_rules(checked, rules, where)
    if checked.get("start_method", "spawn") != "spawn" and checked.get("workers") is None:
        raise OptionsError(
            f"{where}: start_method={checked['start_method']} is for workers, which run one job after the other, and "
            "workers is not set; set it, or leave start_method out"
        )
    for name in checked:
        written = _SBATCH_NAME.get(name, name.replace("_", "-"))
        if written in checked.get("additional_parameters", ()):
            raise OptionsError(f"{where}: {name} is in additional_parameters, too, as {written!r}; write it once")
    return SlurmOptions(**checked)


def _check_exclusive(checked: Mapping[str, Any], where: str) -> None:
    """Raise OptionsError for options that say of one thing something else, also in `additional_parameters`."""
    more: Mapping[str, Any] = checked.get("additional_parameters", {})
    given = {name: f"{name} in additional_parameters" for name in more}
    given |= {_SBATCH_NAME.get(name, name.replace("_", "-")): name for name in checked if name in FIELDS}
    if not checked.get("gpus_per_node") and "gpus-per-node" not in more:
        given.pop("gpus-per-node", None)
    if not re.search(_GPU, str(checked.get("gres") or more.get("gres", ""))):
        given.pop("gres", None)
    name = "max_requeues" if checked.get("max_requeues") is not None else "max_num_timeout"
    if checked.get(name) or name == "max_requeues":
        given["requeue" if checked[name] else "no-requeue"] = f"{name}={checked[name]}"
    for group in _ONE_OF:
        both = [given[name] for name in group if name in given]
        if len(both) > 1:
            raise OptionsError(f"{where}: SLURM takes only one of {' and '.join(both)}; leave out, or set to null, one")


def _check_rules(checked: Mapping[str, Any], rules: Sequence[str], where: str) -> None:
    """Raise OptionsError for what does not go with submitting a job again alone, with more."""
    shared = "workers" if checked.get("workers") is not None else "pack" if checked.get("pack", 1) > 1 else None
    if rules and shared is not None:
        raise OptionsError(
            f"{where}: {rules[0]} submits a job again as a task of its own, and with {shared} jobs share the memory "
            "and the time of one; leave one of them out"
        )
    if "on_timeout" in rules and checked.get("job_timeout_min") is not None:
        raise OptionsError(
            f"{where}: on_timeout raises timeout_min, and job_timeout_min ends jobs before that; leave one of them out"
        )


def checked_value(name: str, given: tuple[Any, Any], where: str) -> Any:
    called, value = given
    try:
        return None if value is None else _CHECKS[called if called in _CHECKS else name](value)
    except OptionsError as error:
        raise OptionsError(f"{where}: {called}: {error}") from None


def _unknown(called: Any, where: str, names: Sequence[str]) -> str:
    from difflib import get_close_matches

    near = [SHORT_NAMES[called]] if called in SHORT_NAMES else get_close_matches(str(called), names, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"{where}: unknown SLURM option {called!r}; {meant}the options are {', '.join(names)}"


_CHECKS: Final[dict[str, Callable[[Any], Any]]] = {
    **{name: one.metadata["check"] for name, one in FIELDS.items()},
    "memory": lambda value: megabytes(value) / 1024,  # exact: a division by a power of two
    "python_runner": lambda value: _text(os.fspath(value) if isinstance(value, os.PathLike) else value),
    "job_runner": _words,
}


LONGEST_MIN: Final = 35_791_393
"""SLURM counts seconds in 32 bits: one minute more and it sets, without a word, a limit of 8,000 years."""

LARGEST_MB: Final = 2**40
