"""Launches: the record of each handing-over of jobs, `launches/0001/launch.json`, written before anything runs.

launches/0001/launch.json      the record, for people, and for those who want all of it
launches/0001/orders.sqlite    the same by job, see `orders`
launches/0001/driver.json      which process runs its jobs one after the other, for as long as it does: between two of
                               them no state tells that more will begin. It appears with the launch.
launches/0001/submitting.json  which process hands it to its scheduler just now, and until when that may be so: as long
                               nothing else tells that its jobs are taken. It appears with the launch, too.
"""

import os
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

from experiment_manager.errors import (
    ExperimentManagerError,
    FolderError,
    JobRefused,
    NewerRecord,
    UnreadableLaunch,
    UnreadableRecord,
)
from experiment_manager.model.records import Attempt, JobId, Launch
from experiment_manager.store.documents import (
    ANCHOR,
    ARRAY,
    LAUNCH,
    LIST,
    MOST_IDS,
    NUMBER,
    TABLE,
    WHOLE,
    are_of_ids,
    read_json,
    read_optional,
    refuse_newer,
    trouble,
)
from experiment_manager.store.files import (
    FileClock,
    clear_leftovers_in,
    discard,
    give_name,
    is_leftover,
    is_link,
    is_there,
    leave_empty,
    may_be_there,
    share,
    sync,
    temporary_name,
    unreadable,
    write_json,
    writer_is_gone,
)
from experiment_manager.store.layout import Folder
from experiment_manager.store.orders import write_orders
from experiment_manager.store.processes import is_gone, named, this_process
from experiment_manager.text import noun, tell

_RECORD: Final = "launch.json"
SETTLED: Final = "settled"
"""An empty file in a launch of which SLURM has nothing more to say: its record need not be read to know its jobs."""
RESTORE: Final = "restore it, or move its folder away if none of its jobs waits or runs"
"""The way out where a record is damaged."""

_PACKAGES, _PATCH, _ORDERS = "packages.txt", "code.patch", "orders.sqlite"
_DRIVER: Final = "driver.json"
_SUBMITTING: Final = "submitting.json"
_SUBMITS_S: Final = 600.0
"""How long a process that nobody hears of may be about to submit the next array of a launch."""

_WRITTEN_BEFORE_THE_RECORD: Final = (_PACKAGES, _PATCH, _ORDERS, _DRIVER, _SUBMITTING)
PLACES: Final = ("", "conf", "code", "tasks", "generations", "states", "launches", "proposals")
"""The folders that all jobs share."""


def create_launch(folder: Folder, jobs: Iterable[Attempt], about: Mapping[str, Any]) -> Launch:
    """A launch with the next number is on disk. `jobs` are the attempts that it is to make, one per job.

    One that no scheduler runs is driven by this process: see `driven`. One that this process is to hand to its
    scheduler counts as being submitted from the beginning: nobody else launches its jobs meanwhile. Raises JobRefused
    where every user of the machine may change what it would run; what a scheduler is to run is asked about when it is
    submitted.
    """
    from experiment_manager.model.ids import format_ids  # a task makes no launch, and pays for no import
    from experiment_manager.model.secrets import masked_words
    from experiment_manager.store import code
    from experiment_manager.store.trust import refuse_to_begin_what_anybody_writes

    if of_scheduler(about) is None:
        refuse_to_begin_what_anybody_writes(folder, about.get("code"))
    ids_by_attempt: dict[str, list[int]] = defaultdict(list)
    for attempt in jobs:
        ids_by_attempt[str(attempt.number)].append(attempt.job_id)
    said = {
        "time": time.time(),
        "user": user_name(),
        "host": os.uname().nodename,
        "cwd": os.getcwd(),
        "argv": masked_words(sys.orig_argv),
        **(known := code.commit(about.get("cwd"))),
        "git_untracked": code.untracked(_place_of_modules(folder, about, ids_by_attempt), known["git_commit"]),
        "python": ".".join(map(str, sys.version_info[:3])),
        **about,
        **({"overrides": masked_words(about["overrides"])} if about.get("overrides") else {}),
        "jobs": {number: format_ids(ids) for number, ids in ids_by_attempt.items()},
    }
    record = {"format": needed_format(said), **said}
    folder.make(folder.launches)
    temporary = temporary_name(folder.join("launches", "launch"))
    try:
        os.mkdir(temporary)
        share(temporary)
        code.write_packages(os.path.join(temporary, _PACKAGES))
        if record["git_dirty"]:
            code.write_patch(os.path.join(temporary, _PATCH), record["cwd"])
        if of_scheduler(record) is None:
            leave_empty(os.path.join(temporary, SETTLED))
            write_json(os.path.join(temporary, _DRIVER), this_process(), for_good=False)
        elif _is_submitted_at_once(record):
            write_json(os.path.join(temporary, _SUBMITTING), _submitter(), for_good=False)
        write_orders(os.path.join(temporary, _ORDERS), record)
        write_json(os.path.join(temporary, _RECORD), record)
        for name in os.listdir(temporary):
            share(os.path.join(temporary, name))
        number = _numbered(folder, temporary)
    except BaseException:
        from shutil import rmtree  # for this alone, and every task imports this module

        rmtree(temporary, ignore_errors=True)
        raise
    sync(folder.launches)
    return Launch(number, record)


def _place_of_modules(folder: Folder, about: Mapping[str, Any], jobs: Mapping[str, Sequence[int]]) -> str:
    """The folder in which the program of a launch finds its own modules; the working directory where that is not known.
    Of jobs with several programs, it is that of the first."""
    from experiment_manager.store.manifest import Manifest  # a task makes no launch
    from experiment_manager.store.programs import place_of_modules

    runner: Sequence[str] = about.get("runner") or ()
    if len(runner) == 2:  # an interpreter and a script
        return os.path.dirname(os.path.abspath(runner[1]))
    first = next((ids[0] for ids in jobs.values() if ids), None)
    with suppress(ExperimentManagerError), Manifest(folder) as manifest:
        recipe = about.get("recipe")
        if recipe is None and first is not None:
            recipe = manifest.job(JobId(first)).recipe
        if recipe is not None:
            return place_of_modules(manifest.recipe(recipe).entry)
    return os.getcwd()


@contextmanager
def driven(folder: Folder, launch: Launch) -> Iterator[None]:
    """Inside, we may run jobs of a launch that we have made, or submit it; afterwards nobody does."""
    try:
        yield
    finally:
        discard(folder.join("launches", launch.number, _DRIVER))
        note_submitted(folder, launch.number)


def _is_submitted_at_once(record: Mapping[str, Any]) -> bool:
    """Whether whoever makes a launch hands it to its scheduler, and does not write scripts for people alone."""
    by = str(record.get("launcher"))
    return by.endswith(("_submitit", "_submit")) or any(record.get(name) is not None for name in ("heals", "joins"))


def _submitter() -> dict[str, Any]:
    return {"process": this_process(), "until": time.time() + _SUBMITS_S}


def note_submitting(folder: Folder, number: str) -> None:
    """This process submits the launch of that number; the next ten minutes nothing else need tell so. Raises
    OSError."""
    write_json(folder.join("launches", number, _SUBMITTING), _submitter(), for_good=False, is_shared=True)


def note_submitted(folder: Folder, number: str) -> None:
    """This process does not submit that launch, or does so no more; another one may. Where nobody can look, the next
    ten minutes tell so."""
    path = folder.join("launches", number, _SUBMITTING)
    with suppress(OSError, FolderError):
        if is_there(path) and read_optional(path, {"process": TABLE}).get("process") == this_process():
            discard(path)


def is_being_submitted(folder: Folder, number: str) -> bool:
    """Whether a process that has not ended, as far as anybody knows, is about to submit something of a launch. To be
    asked before it is looked up what was submitted: at no moment neither of them tells."""
    path = folder.join("launches", number, _SUBMITTING)
    found = read_optional(path, {"process": TABLE, "until": NUMBER})
    if float(found.get("until") or 0.0) <= time.time():
        return False
    return not writer_is_gone(path, found.get("process") or {}, may_write=not folder.is_only_read)


class Driver(NamedTuple):
    """The process that runs the jobs of a launch, one after the other, as far as anybody knows."""

    launch: str
    path: str  # of the file that tells
    process: Mapping[str, Any]

    def __str__(self) -> str:
        return named(self.process)

    @property
    def is_surely_there(self) -> bool:
        return is_gone(self.process) is False

    def has_ended(self, *, may_write: bool) -> bool:
        """That is certain; see `writer_is_gone`."""
        return writer_is_gone(self.path, self.process, may_write=may_write) is True


def drivers(folder: Folder) -> list[Driver]:
    """Whoever may still begin jobs that wait for no scheduler; not those that have certainly ended."""
    return [driver for driver in _drivers(folder) if not driver.has_ended(may_write=not folder.is_only_read)]


def _drivers(folder: Folder) -> Iterator[Driver]:
    """Those that are written down, also where they have ended."""
    for number in _names(folder):
        path = folder.join("launches", number, _DRIVER)
        if is_there(path):
            yield Driver(number, path, read_optional(path, ANCHOR))


def _numbered(folder: Folder, temporary: str) -> str:
    """The next number, which a finished launch bears from now on: nobody ever sees half of one."""
    number = int(next_number(folder)) - 1
    while True:
        number += 1
        with suppress(FileExistsError):
            give_name(temporary, folder.join("launches", f"{number:04d}"))
            return f"{number:04d}"


def launch_numbers(folder: Folder, among: Collection[str] | None = None) -> list[str]:
    """The numbers of the launches there are, or of those `among` them, oldest first.

    A folder without a record is none: whoever was about to make it was killed. Raises FolderError when the folder of
    the launches cannot be read.
    """
    names = [name for name in _names(folder) if among is None or name in among]
    return [name for name in names if may_be_there(folder.join("launches", name, _RECORD))]


def next_number(folder: Folder) -> str:
    """The number that the next launch gets, unless another is made before. Raises FolderError."""
    return f"{max((int(name) for name in _names(folder)), default=0) + 1:04d}"


def unsettled_numbers(folder: Folder) -> list[str]:
    """The numbers of those of which SLURM may still have to say something, and what was never finished."""
    return [name for name in _names(folder) if not is_there(folder.join("launches", name, SETTLED))]


def clear_leftovers(folder: Folder) -> None:
    """No leftover is in the folders that all jobs share, and no launch that never got its record. To be used inside
    `folder.planning`; never raises."""
    clock = FileClock(folder.path)
    for place in PLACES:
        with suppress(FolderError):
            if not place or not is_link(folder.join(place)):
                clear_leftovers_in(folder.join(place) if place else folder.path, clock)
    with suppress(OSError, FolderError):
        folder.require_within(folder.launches)
        for number in unsettled_numbers(folder):
            place = folder.join("launches", number)
            if is_link(place):  # of somebody else's: it leads anywhere
                continue
            clear_leftovers_in(place, clock)
            _clear_unrecorded(place, clock)
            if not is_being_submitted(folder, number):
                discard(os.path.join(place, _SUBMITTING))
        for driver in _drivers(folder):
            if driver.has_ended(may_write=True):
                place = os.path.dirname(driver.path)
                with suppress(OSError):
                    folder.require_within(place)
                    clear_leftovers_in(place, clock)  # of a settled launch, into which nobody looks
                    os.unlink(driver.path)


def _clear_unrecorded(place: str, clock: FileClock) -> None:
    """A launch that never got a record is gone; it gets its name only with its record now, but did not always."""
    with suppress(OSError, FolderError):
        if not is_there(os.path.join(place, _RECORD)) and is_leftover(".launch.0.tmp", clock.age_s(place)):
            for name in _WRITTEN_BEFORE_THE_RECORD:
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(place, name))
            os.rmdir(place)


def settle(folder: Folder, number: str) -> None:
    """SLURM has nothing more to say of this launch, whose folder nobody looks at again: what a killed process has left
    there is gone. Nothing happens in a folder that only others may write to."""
    if folder.is_only_read:
        return
    place = folder.join("launches", number)
    with suppress(OSError, FolderError):
        folder.require_within(place)
        if not is_link(place):  # one leads anywhere
            clear_leftovers_in(place)
        leave_empty(os.path.join(place, SETTLED))


def _names(folder: Folder) -> list[str]:
    try:
        names = os.listdir(folder.launches)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FolderError(unreadable(folder.launches, error)) from error
    return sorted((name for name in names if name.isdecimal()), key=int)


def read_launch(folder: Folder, number: str) -> Launch:
    """The launch of that number. Raises JobRefused when there is none."""
    return Launch(number, read_record(folder, number))


def last_launch(folder: Folder) -> Launch | None:
    """The newest launch; None when there is none. Raises UnreadableLaunch."""
    return next(_newest_first(folder), None)


def _newest_first(folder: Folder) -> Iterator[Launch]:
    """The launches there are. Raises UnreadableLaunch: an older one is another one."""
    for number in reversed(launch_numbers(folder)):
        try:
            launch = read_launch(folder, number)
        except UnreadableLaunch:
            raise
        except JobRefused:  # it has no record: nothing was ever handed over
            continue
        yield launch


def kept_pruner(folder: Folder) -> dict[str, Any]:
    """What the record of one launch more keeps of what prunes the jobs of the newest one, but for those that ran jobs
    again: nothing where nothing does. Raises UnreadableLaunch."""
    launch = pruning_launch(folder)
    return {} if launch is None else {"pruner": launch.record["pruner"]}


def pruning_launch(folder: Folder) -> Launch | None:
    """The newest launch, but for those that ran jobs again, if its jobs are pruned. Raises UnreadableLaunch."""
    launch = next((launch for launch in _newest_first(folder) if "resubmits" not in launch.record), None)
    return launch if launch is not None and launch.record.get("pruner") is not None else None


def last_ranking(folder: Folder) -> dict[str, Any]:
    """The `metric`, `direction` and `take` by which the newest launch that says it has its jobs compared: its pruner's,
    or those that were named without one; empty where none does. Raises UnreadableLaunch."""
    named = (launch.record.get("pruner") or launch.record.get("ranking") for launch in _newest_first(folder))
    return next((ranking for ranking in named if ranking is not None), {})


def kept_upstream(folder: Folder, ids: Iterable[int]) -> dict[str, Any]:
    """What the record of one launch more of these jobs keeps of the jobs that they come after, as the newest launch of
    each says: nothing where none does. Raises UnreadableLaunch; JobRefused for jobs that come after several
    experiments."""
    from experiment_manager.model import stages

    left, places = set(ids), dict[str, tuple[str, str]]()
    found: dict[str, dict[int, tuple[int, ...]]] = defaultdict(dict)
    for launch in _newest_first(folder):
        mine = left & planned_attempts(launch).keys()
        left -= mine
        kept = launch.record.get("upstream") if mine else None
        if kept is not None:
            orders = stages.by_job(kept)
            place = os.path.realpath(kept["experiment"])
            places.setdefault(place, (str(kept["experiment"]), str(kept["relative"])))
            found[place].update({job_id: stages.upstream(orders[job_id], job_id) for job_id in mine & orders.keys()})
        if not left:
            break
    pairs = {place: own for place, own in found.items() if own}
    if len(pairs) > 1:
        raise JobRefused(
            f"these jobs of {folder.path} come after jobs of {' and of '.join(sorted(pairs))}; name those of one of "
            "them alone"
        )
    return {} if not pairs else {"upstream": stages.kept(*places[next(iter(pairs))], next(iter(pairs.values())))}


_MOST_ASKED: Final = 50


def tell_of_wrap_left_out(folder: Folder, ids: Iterable[int]) -> None:
    """People know which of these jobs, that are about to run without `wrap`, the newest launch of each at a scheduler
    puts a command around: results in a container and out of it may differ. Fifty launches are looked at, no more, and
    of one that cannot be read nothing is said."""
    from experiment_manager.model.ids import format_ids, parse_ids

    left, wrapped, numbers = set(ids), set[int](), list[str]()
    for number in reversed(launch_numbers(folder)[-_MOST_ASKED:]):
        if not left:
            break
        with suppress(JobRefused):
            for array in (of_scheduler(read_launch(folder, number).record) or {}).get("arrays", ()):
                mine = left.intersection(parse_ids(array["jobs"]))
                left -= mine
                if mine and array["options"].get("wrap"):
                    wrapped |= mine
                    numbers.append(number)
    if wrapped:
        verb, whose = ("runs", "its") if len(wrapped) == 1 else ("run", "their")
        tell(
            f"warning: {noun(len(wrapped))} {format_ids(wrapped)} of {folder.path} {verb} here without the command in "
            f"wrap that {whose} launch at a scheduler has ({', '.join(sorted(set(numbers)))}), such as a container; "
            "the same sweep or `resubmit`, with the launcher of that launch, keeps it"
        )


def planned_attempts(launch: Launch) -> dict[int, int]:
    """The number of the first attempt that a launch planned, for each of its jobs."""
    return planned(launch.record)


def user_name() -> str:
    """Who we are, by name where the system knows it."""
    import getpass  # no task asks

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in containers
        return str(os.getuid())


_SINCE: Final = {
    **dict.fromkeys(("job_timeout_min", "workers", "joins"), 2),
    **dict.fromkeys(("pruner", "search_from"), 3),
    **dict.fromkeys(("on_oom", "on_timeout", "exclude_after", "heals"), 4),
    "upstream": 5,
}
"""What a launch, an array or its options may say, and the first format of which a reader knows it; all else is of 1."""


def needed_format(record: Mapping[str, Any]) -> int:
    """The least format that keeps off those versions which would not do what the record of a launch says.

    >>> needed_format({"jobs": {"1": "0-3"}}), needed_format({"jobs": {"1": "0-3"}, "job_timeout_min": 0.5})
    (1, 2)
    """
    arrays = (of_scheduler(record) or {}).get("arrays", ())
    said = {name for part in (record, *arrays) for name in part if part[name] is not None}
    said.update(name for array in arrays for name, value in (array.get("options") or {}).items() if value is not None)
    return max((_SINCE[name] for name in said & _SINCE.keys()), default=1)


def read_record(folder: Folder, number: str) -> dict[str, Any]:
    """The record of the launch of that number. Raises JobRefused when there is none; UnreadableLaunch."""
    path = folder.join("launches", number, "launch.json")
    try:
        record: dict[str, Any] = read_json(path)
        refuse_newer(path, record, LAUNCH)
    except FileNotFoundError as error:
        raise JobRefused(f"there is no launch {number} in {folder.path}; leave --launch out") from error
    except NewerRecord as error:
        raise UnreadableLaunch(str(error), is_newer=True) from error
    except UnreadableRecord as error:
        raise UnreadableLaunch(error.with_way_out(RESTORE), is_out_of_reach=error.is_out_of_reach) from error
    if wrong := trouble(record, LAUNCH, required=["jobs"]) or _wrong_arrays(record) or _wrong_upstream(record):
        raise UnreadableLaunch(f"{path} is damaged ({wrong}); {RESTORE}")
    return record if record.get("search_from") is None else _with_proposed(folder, number, record)


def _with_proposed(folder: Folder, number: str, record: dict[str, Any]) -> dict[str, Any]:
    """The record with what its workers have proposed since it was written. Raises ManifestError."""
    from experiment_manager.model.ids import format_ids, parse_ids
    from experiment_manager.store.manifest import Manifest

    with Manifest(folder) as manifest:
        proposed = [one.job_id for one in manifest.proposals() if one.launch == number]
    if not proposed:
        return record

    def more(text: str) -> str:
        return format_ids(sorted({*(parse_ids(text) if text else ()), *proposed}))

    arrays = [{**array, "jobs": more(array["jobs"])} for array in (of_scheduler(record) or {}).get("arrays", ())]
    name = record.get("scheduler") or "slurm"
    own = {name: {**of_scheduler(record), "arrays": arrays}} if arrays else {}
    return {**record, **own, "jobs": {**record["jobs"], "1": more(record["jobs"].get("1", ""))}}


def of_scheduler(record: Mapping[str, Any]) -> Any:
    """The options and arrays that a launch keeps, under the name of its scheduler; None where none runs it."""
    return record.get(record.get("scheduler") or "slurm")


def options_of_array(launch: Launch, name: str) -> Mapping[str, Any]:
    """The options of the array of that name. Raises KeyError where the launch has none."""
    for array in (of_scheduler(launch.record) or {}).get("arrays", ()):
        if array["name"] == name:
            found: Mapping[str, Any] = array["options"]
            return found
    raise KeyError(name)


def note_restart(folder: Folder, number: str, worker: str, restart: int) -> None:
    """A worker of a launch has been started again so often: an earlier run of it, which may still run on a node that
    is cut off, finds that out by `newest_restart`. Raises OSError."""
    write_json(_restarts(folder, number, worker), {"restart": restart}, for_good=False, is_shared=True)


def newest_restart(folder: Folder, number: str, worker: str) -> int:
    """How often a worker has been started again, as far as that is told."""
    return int(read_optional(_restarts(folder, number, worker), {"restart": WHOLE}).get("restart") or 0)


def _restarts(folder: Folder, number: str, worker: str) -> str:
    return folder.join("launches", number, f"{worker}.restart.json")


def _wrong_arrays(record: Mapping[str, Any]) -> str | None:
    """The fault in a record of job arrays; None: there is none."""
    kept = of_scheduler(record)
    if kept is None:
        return None
    wrong = None if isinstance(kept, Mapping) else f"{record.get('scheduler')} is no mapping"
    wrong = wrong or trouble(kept, {"options": TABLE, "arrays": LIST}, required=["arrays"])
    wrong = wrong or trouble(record, {}, required=["time", "user", "cwd"])
    required = [name for name in ARRAY if name not in ("after", "workers")]
    for place, array in enumerate(() if wrong else kept["arrays"]):
        wrong = wrong or trouble(array, ARRAY, required)
        if not wrong and not 0 <= (array.get("after") or 0) <= place:
            wrong = "an array comes after one that is none of its launch"
    if not wrong and not are_of_ids(array["jobs"] for array in kept["arrays"]):
        wrong = f"its arrays name more than {MOST_IDS} jobs"
    return wrong


def _wrong_upstream(record: Mapping[str, Any]) -> str | None:
    """The fault in what a record says of the jobs of another experiment; None: there is none."""
    if record.get("upstream") is None:
        return None
    from experiment_manager.model import stages

    return stages.trouble(record["upstream"])


def planned(record: Mapping[str, Any]) -> dict[int, int]:
    """The number of the first attempt that a launch planned, for each of its jobs."""
    from experiment_manager.model.ids import parse_ids

    return {job_id: int(first) for first, ids in record["jobs"].items() for job_id in parse_ids(ids)}
