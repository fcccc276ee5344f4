"""A worker: it runs jobs of one launch, one after the other, until none is left that it may take, or no time for one.

Workers know nothing of each other, and there is no server: what is taken, the names in `states/` tell. A job is taken
by linking the anchor of the one attempt number that it may get now, which only one process can do (`store.states`), so
a job that somebody else has taken meanwhile is never begun a second time.

Each worker begins at a place of its own and goes on by as many jobs as there are places, so that workers seldom want
the same job, and looks for one file per job. What is left then, one listing tells; where others are faster there, the
next listing is shorter.
"""

import json
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from experiment_manager.errors import ExperimentManagerError, FolderError, JobRefused, NotOverYet, UnknownJob
from experiment_manager.execution.child import Child, own_temporary_folder, prepare, start
from experiment_manager.execution.signals import Heard
from experiment_manager.execution.supervisor import Outcome, Start, supervise
from experiment_manager.model.policy import REFUSED
from experiment_manager.model.records import Attempt, State, Task
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.protocol import Scheduler
from experiment_manager.scheduler.submission import DIED, LaunchedArray, is_taken_again, launched_arrays
from experiment_manager.store import processes
from experiment_manager.store.files import asked_again, is_of_the_disk, unreadable
from experiment_manager.store.launches import (
    launch_numbers,
    newest_restart,
    note_restart,
    options_of_array,
    planned_attempts,
    read_launch,
)
from experiment_manager.store.layout import Folder
from experiment_manager.store.orders import Orders
from experiment_manager.store.states import OWNERSHIP_POLL_S, States, StateTable
from experiment_manager.text import one_line, tell

if TYPE_CHECKING:
    from experiment_manager.execution.search import SearchJobs
    from experiment_manager.scheduler.upstream import Upstreams

Answer = TypeVar("Answer")

BY_HAND: Final = "work"
"""The launcher of launches whose jobs a LocalWorker runs; also the verb that makes them."""

_LONGER: Final = 1.5
"""A job may need so many times what the longest one took that the worker has seen end."""

_MISSES: Final = 8
"""So many jobs in a row that others have taken: a new listing tells sooner what is left."""

_MOST_OF_A_LINE: Final = 800
"""Characters of why a job was refused: in any letters less than a pipe takes at once (PIPE_BUF)."""

_MOST_FAILURES: Final = 10
_SOON_S: Final = 10.0
"""A lane takes no more jobs when the first ones have all failed, so many, each within so many seconds."""

_MAY_BE_TAKEN_AGAIN: Final = DIED | {State.PREEMPTED, State.TIMEOUT, State.CANCELLED}


class Candidate(NamedTuple):
    """A job that a worker may take, and the one number that its attempt can get."""

    job_id: int
    number: int
    launch: str  # that it is of: the worker's own, or one that has joined it


PAUSE: Final = Candidate(-1, 0, "")
"""No job: all that are left wait for jobs of other experiments, and are to be tried again after a moment."""

_PAUSE_S: Final = 1.0

_ASKS_AGAIN_S: Final = 10.0
"""How soon a scheduler is asked again for the end of a worker that it did not tell, and the jobs of others are looked
for while all that was found waits."""

_MOST_TRIES: Final = 3
"""So often a job is tried again that nobody has taken, and whose last attempt was not over."""


class Candidates:
    """The jobs that one worker may take, in the order in which it is to try them; each is named once."""

    def __init__(
        self,
        states: States,
        launch: str,
        planned: dict[int, int],
        place: int,
        n_places: int,
        again: "Again | None" = None,
        *,
        joined: "Callable[[], Sequence[Candidates]]" = tuple,
        search: "SearchJobs | None" = None,
    ) -> None:
        """`planned` are the numbers that the launch gave to the first attempts of its jobs; those that are proposed are
        added. `again` finds those that have begun and are to be taken again; None: none is. `joined` gives the
        candidates of launches that have joined since it was asked the last time. `search` is what proposes more."""
        self._states, self._planned, self._again, self.search = states, planned, again, search
        self._place, self._n_places = place, n_places
        self._launch, self._joined = launch, joined
        self._named: set[Candidate] = set()
        self._kept_back: set[Candidate] = set()  # those of them that were found to be held, or removed
        self._others: list[Candidates] = []
        self._put_off: list[Candidate] = []
        self._tries: Counter[Candidate] = Counter()  # how often those were refused that nobody has taken

    def __iter__(self) -> "Iterator[Candidate | None]":
        """None stands for a job that is to be asked for, by `propose`, before the next step."""
        yield from self._of_earlier_runs()
        own = list(self._planned.items())[self._place :: self._n_places]
        yield from self._untaken(Candidate(*one, self._launch) for one in own)
        yield from self._all_left()
        looked_at, is_late = time.monotonic(), False  # while we ran others, or waited, some have ended
        while True:
            while new := self._joined_since():
                for others in new:
                    yield from others
            n_left = 0
            if not self._put_off or time.monotonic() >= looked_at + _ASKS_AGAIN_S:
                looked_at = time.monotonic()
                for candidates in (self, *self._others) if self._others or is_late else ():
                    for one in candidates._all_left():
                        n_left += 1
                        yield one
            if n_left:
                continue
            if self._put_off:
                again, self._put_off = self._put_off, []
                yield PAUSE
                yield from (one for one in again if not self._is_claimed(one))  # others may have cancelled it
                is_late = True
                continue
            if self.search is None or self.search.is_over:
                break
            yield None
        if self.search is not None:  # somebody else may have died before he took what was proposed to him
            self._planned.update(self.search.planned())
            yield from self._all_left()

    def propose(self, heard: Heard) -> Candidate | None:
        """A job that is proposed now; None: nothing more is, or a signal was heard. Raises ExperimentManagerError."""
        assert self.search is not None
        job_id = self.search.ask(heard)
        if job_id is None:
            return None
        self._planned[job_id] = 1
        one = Candidate(job_id, 1, self._launch)
        self._named.add(one)
        return one

    def put_off(self, one: Candidate) -> None:
        """A job waits for others, and is named again when the rest has been."""
        self._put_off.append(one)

    def leave(self, one: Candidate, *, may_be_over: bool = False) -> None:
        """A job was not taken: one that is held may be, once it is released, and one that nobody else has taken, when
        all see that its last attempt is over, which was not (`may_be_over` by now)."""
        if self._states.is_kept_back(one.job_id):
            for candidates in (self, *self._others):
                candidates._named.discard(one)  # whichever of them has named it
                candidates._kept_back.add(one)
        elif may_be_over and self._tries[one] < _MOST_TRIES and not self._is_claimed(one):
            self._tries[one] += 1
            self.put_off(one)

    def has_left(self) -> bool:
        """Whether there is a job that nobody has taken yet."""
        self._joined_since()
        if self.search is not None:
            if self.search.has_left():
                return True
            self._planned.update(self.search.planned())
        return bool(self._unclaimed()) or any(others.has_left() for others in self._others)

    def _of_earlier_runs(self) -> Iterator[Candidate]:
        """What this worker had in hand when it was started again: also jobs of launches that had joined it."""
        if self._again is None or not self._again.is_restarted:
            return
        self._joined_since()
        for candidates in (self, *self._others):
            if candidates._again is not None:
                yield from candidates._untaken(candidates._again.of_earlier_runs())

    def _joined_since(self) -> "Sequence[Candidates]":
        new = _patiently(self._joined)
        self._others += new
        return new

    def _is_claimed(self, one: Candidate) -> bool:
        return _patiently(lambda: self._states.is_claimed(one.job_id, one.number))

    def _unclaimed(self) -> dict[int, int]:
        return _patiently(lambda: self._states.unclaimed(self._planned))

    def _all_left(self) -> Iterator[Candidate]:
        while left := self._left():
            first = self._place * len(left) // self._n_places
            yield from self._untaken([*left[first:], *left[:first]], most_misses=_MISSES)

    def _left(self) -> list[Candidate]:
        unclaimed = (Candidate(*one, self._launch) for one in self._unclaimed().items())
        left = [one for one in unclaimed if one not in self._named]
        if not left and self._again is not None:
            left = [one for one in self._again.of_ended_workers() if one not in self._named]
        return left

    def _untaken(self, found: Iterable[Candidate], most_misses: int | None = None) -> Iterator[Candidate]:
        misses = 0
        for one in found:
            if misses == most_misses:
                return
            if one in self._named:
                continue
            self._named.add(one)  # also what others have taken: a number is never free again
            if self._is_claimed(one):
                misses += 1
                continue
            misses = 0
            if one in self._kept_back:  # a listing may not show for a while that it is
                yield PAUSE
            yield one


class _Begun(NamedTuple):
    """A job that has begun, by its last attempt, and the task that had it in hand."""

    last: Attempt
    task: Task | None


class Again:
    """Finds the jobs of a launch that have begun and may be taken again: their worker has died, or was made to end."""

    def __init__(
        self, folder: Folder, launch: str, planned: Mapping[int, int], here: Task | None, max_retries: int
    ) -> None:
        self._folder, self._launch, self._planned = folder, launch, planned
        self._here, self._max_retries = here, max_retries
        self._states = States(folder)

    @property
    def is_restarted(self) -> bool:
        """Whether the task of this worker was put back into the queue."""
        return self._here is not None and bool(self._here.restart)

    def of_earlier_runs(self) -> list[Candidate]:
        """What this worker had in hand then."""
        table, begun = self._begun()
        return self._taken(
            table, [one for one in begun if one.task is not None and one.task.is_earlier_run_of(self._here)]
        )

    def of_ended_workers(self) -> list[Candidate]:
        """What others had in hand whose task has ended, as the scheduler says; it is asked once about all."""
        table, begun = self._begun()
        has_ended = {one: self._has_ended(one) for one in begun}
        ended = schedulers.ended(one.task for one, known in has_ended.items() if known is None and one.task is not None)
        return self._taken(
            table, [one for one, known in has_ended.items() if known or (known is None and one.task in ended)]
        )

    def _has_ended(self, one: "_Begun") -> bool | None:
        """Whether what had a job in hand has ended; None: its scheduler is to be asked about the task."""
        if one.last.state is not State.RUNNING:
            return True
        if one.task is None:
            return False
        if one.task.is_earlier_run_of(self._here):
            return True
        if self._here is not None and one.task.name == self._here.name:
            return processes.is_gone(self._states.record(one.last.job_id, one.last.number)) is True
        return None

    def _begun(self) -> "tuple[StateTable, list[_Begun]]":
        """The jobs of the launch that have begun under it, and may be taken again for what they are."""
        table = _patiently(self._states.table)
        found = []
        for job_id, planned in self._planned.items():
            last = table.last(job_id)
            if last.number < planned or last.state not in _MAY_BE_TAKEN_AGAIN:
                continue
            record = self._states.record(job_id, last.number)
            if record.get("launch") == self._launch:
                found.append(_Begun(last, self._states.task(job_id, last.number, record)))
        return table, found

    def _taken(self, table: StateTable, begun: "Iterable[_Begun]") -> list[Candidate]:
        """Those that may be taken by the way that they have ended."""
        found = []
        for last, task in begun:
            is_taken = is_taken_again(
                last,
                table.attempts[last.job_id],
                self._planned[last.job_id],
                self._max_retries,
                is_own=task is not None and task.is_earlier_run_of(self._here),
                is_for_others=partial(self._states.ended_for_others, last),
            )
            if is_taken:
                found.append(Candidate(last.job_id, table.next_number(last.job_id), self._launch))
        return found


class TimeLeft:
    """Whether one more job can end before its worker has to."""

    def __init__(
        self, ends_at: Callable[[], float | None], job_limit_s: float | None, *, ends_first_at: float | None = None
    ) -> None:
        """`ends_at` tells when the worker has to end, in seconds since the epoch, infinite: never; None: that cannot be
        known now. `job_limit_s` is how long a job may take at most, where that is known. No job begins after
        `ends_first_at`."""
        self._ends_at, self._job_limit_s = ends_at, job_limit_s
        self._longest = 0.0
        self._end = ends_first_at
        self._ask_at = 0.0  # what was not known is asked again

    def is_enough(self) -> bool:
        """It is for the first job, of which nothing is known: whoever wants no such job gives the limit."""
        need = self._longest * _LONGER if self._job_limit_s is None else self._job_limit_s
        if not need and self._end is None:
            return True
        is_over = self._end is not None and time.time() + need > self._end  # people give more time to what runs
        if is_over or time.monotonic() >= self._ask_at:
            found = self._ends_at()
            self._end = self._end if found is None else found
            self._ask_at = time.monotonic() + (_ASKS_AGAIN_S if found is None else math.inf)
        return self._end is None or time.time() + need <= self._end

    def note(self, seconds: float) -> None:
        """A job has taken so long."""
        self._longest = max(self._longest, seconds)


class Lane:
    """Runs one job after the other: the loop of every worker, in a task of a scheduler and by hand. A worker that runs
    several jobs at a time has as many lanes, each a process of its own."""

    def __init__(
        self,
        folder: Folder,
        candidates: Candidates,
        left: TimeLeft,
        *,
        is_alone: bool,
        permits: "Permits | None" = None,
        note: "Note",
        beginning: "Beginning | None" = None,
    ) -> None:
        """`is_alone`: no other lane runs jobs beside it. It takes no more jobs than all lanes together have `permits`;
        None: as many as it finds. `note` hears of each job that has ended. `beginning` None: jobs are spawned."""
        self._folder, self._candidates, self._left = folder, candidates, left
        self._is_alone, self._permits, self._note = is_alone, permits, note
        self._has_permit = permits is None
        self._beginning = beginning
        self._orders = Orders(folder)
        self._upstreams: Upstreams | None = None
        self._n_failed: int | None = 0  # None: a job has done well here

    def run(
        self, goes_on: Callable[[], bool] = lambda: False, *, is_newest: Callable[[], bool] = lambda: True
    ) -> Outcome:
        """Jobs have run until none is left that may be taken, no time is left for one, or somebody has asked for the
        end. The status is that of the first job that has one other than 0. `goes_on` tells, where no time is left,
        whether the task is to be started again; `is_newest`, whether this worker is the one that is to run."""
        heard = Heard()
        search = self._candidates.search
        if search is not None:
            search.begin_beside()
        try:
            return self._run_all(heard, goes_on, is_newest)
        finally:
            if search is not None:
                search.end()

    def _run_all(self, heard: Heard, goes_on: Callable[[], bool], is_newest: Callable[[], bool]) -> Outcome:
        outcome = Outcome(0)
        begin = start if self._beginning is None else self._beginning(heard)
        for found in self._candidates:
            heard.wait(0)
            if heard.was_stopped or not is_newest():
                return outcome
            if heard.was_warned or not self._left.is_enough():
                return outcome._replace(is_to_requeue=goes_on())
            if found is None and not self._may_take():
                return outcome
            if found is PAUSE:
                heard.wait(_PAUSE_S)
                continue
            try:
                if found is not None and self._waits(found):
                    self._candidates.put_off(found)
                    continue
                one = self._candidates.propose(heard) if found is None else found
            except ExperimentManagerError as error:
                tell(f"error: {error}")
                return outcome._replace(status=outcome.status or REFUSED)
            if one is None:
                continue
            started, refused = time.monotonic(), None
            try:
                child = self._prepared(one)
                if not self._may_take():
                    return outcome
                ended = self._run(child._replace(only=one.number), heard, begin)
            except (JobRefused, UnknownJob) as error:  # of this job; the next one may run all the same
                ended, refused = Outcome(REFUSED, has_begun=self._why_given_up(one) is None), error
            except ExperimentManagerError as error:  # no other could begin
                self._note(one, time.monotonic() - started, error)
                return outcome._replace(status=outcome.status or REFUSED)
            if isinstance(ended, JobRefused):
                self._candidates.leave(one, may_be_over=isinstance(ended, NotOverYet))
                continue
            seconds = time.monotonic() - started
            self._has_permit = self._permits is None or (self._has_permit and refused is not None)
            self._left.note(seconds)
            self._note(one, seconds, refused)
            outcome = Outcome(outcome.status or ended.status, ended.is_to_requeue)
            is_broken = ended.has_begun and self._only_fails(ended.status, seconds)
            if ended.is_to_requeue or ended.was_overtaken or is_broken:
                return outcome
        return outcome

    def _prepared(self, one: Candidate) -> Child:
        """The child for a job. Raises JobRefused, too, where what it comes after cannot be looked at from here: the job
        is left to those who see that."""
        if (trouble := self._why_given_up(one)) is not None:
            raise JobRefused(f"job {one.job_id} of {self._folder.path} is not begun: {trouble}")
        return _patiently(
            lambda: prepare(self._folder, one.job_id, launch=one.launch, is_fake=False, orders=self._orders)
        )

    def _why_given_up(self, one: Candidate) -> str | None:
        """Why what a job comes after cannot be looked at, however often that was tried; None: it can."""
        return None if self._upstreams is None else self._upstreams.why_given_up(one.launch, one.job_id)

    def _waits(self, one: Candidate) -> bool:
        """Whether a job comes after others that have not ended, or that cannot be looked at for a while."""
        if self._upstreams is None:
            try:
                order = self._orders.of(one.launch, one.job_id)  # which is kept for who prepares the job
            except ExperimentManagerError:  # of which he tells
                return False
            if order is None or order.upstream is None:
                return False
            from experiment_manager.scheduler.upstream import Upstreams  # of the few launches that come after others

            self._upstreams = Upstreams(self._folder)
        return bool(self._upstreams.waits_for(one.launch, one.job_id))

    def _only_fails(self, status: int, seconds: float) -> bool:
        """Whether nothing has come of all the jobs so far: where the machine or the program is broken, the whole list
        would be used up in no time."""
        if self._n_failed is None or status == 0 or seconds > _SOON_S:
            self._n_failed = None
            return False
        self._n_failed += 1
        if self._n_failed < _MOST_FAILURES:
            return False
        tell(f"the first {_MOST_FAILURES} jobs here have failed within seconds, all of them: no other is begun here")
        return True

    def _may_take(self) -> bool:
        """Whether one job more may be taken; a permit for one that somebody else has taken is good for the next."""
        self._has_permit = self._has_permit or (self._permits is not None and self._permits.take())
        return self._has_permit

    def _run(self, child: Child, heard: Heard, begin: Start) -> Outcome | JobRefused:
        """The job has run; why it was refused, where somebody else has taken it, or it is not to be run."""
        place: AbstractContextManager[None] = nullcontext() if self._is_alone else own_temporary_folder(child.job_id)
        with place:
            try:
                return supervise(child, heard=heard, begin=begin)
            except JobRefused as error:
                return error


Note = Callable[[Candidate, float, ExperimentManagerError | None], None]
"""Hears of a job that has ended, how many seconds it took, and why it was not run, if it was not."""


Beginning = Callable[[Heard], Start]
"""What starts the jobs of a lane that hears its signals by this."""


class Permits:
    """How many jobs more all lanes of a worker may take together; copies of this process share the number."""

    def __init__(self, most: int) -> None:
        from tempfile import TemporaryFile

        self._file = TemporaryFile()  # noqa: SIM115 - as long as this process
        os.pwrite(self._file.fileno(), most.to_bytes(8), 0)

    def take(self) -> bool:
        """One job more may be taken: then one less is left. False: none is left."""
        import fcntl

        handle = self._file.fileno()
        fcntl.lockf(handle, fcntl.LOCK_EX)
        try:
            left = int.from_bytes(os.pread(handle, 8, 0))
            os.pwrite(handle, max(0, left - 1).to_bytes(8), 0)
        finally:
            fcntl.lockf(handle, fcntl.LOCK_UN)
        return left > 0


class Runs:
    """The runs of one worker, which a scheduler can start again while an earlier run is cut off and goes on."""

    def __init__(self, folder: Folder, launch: str, worker: str, here: Task | None) -> None:
        self._folder, self._launch, self._worker = folder, launch, worker
        self._restart = 0 if here is None else here.restart
        self._look_at = time.monotonic() + OWNERSHIP_POLL_S
        if self._restart:
            with suppress(OSError):  # then the earlier run finds out by the jobs that it had in hand
                note_restart(folder, launch, worker, self._restart)

    def is_newest(self) -> bool:
        """False once a later run has begun; that is looked for now and then."""
        if time.monotonic() < self._look_at:
            return True
        self._look_at = time.monotonic() + OWNERSHIP_POLL_S
        return newest_restart(self._folder, self._launch, self._worker) <= self._restart


class Worker:
    """One task of an array of workers. With `pack` it has several lanes."""

    def __init__(
        self, folder: Folder, launch: str, array: str, index: int, *, beginning: Beginning | None = None
    ) -> None:
        """Worker number `index` of the array of that name; `beginning` as of its lanes. Raises JobRefused where the
        launch has no such worker."""
        self.folder, self.launch, self._index, self._beginning = folder, launch, index, beginning
        record = read_launch(folder, launch)
        self._array = _array_of_workers(launched_arrays(record), array, index, f"launch {launch} of {folder.path}")
        planned = planned_attempts(record)
        self._planned = {job_id: planned[job_id] for job_id in sorted(self._array.jobs)}
        self._has_search = record.record.get("search_from") is not None
        self._options = options_of_array(record, array)
        self._here, self._scheduler = schedulers.current_task(), schedulers.current()
        self._newest = launch  # of the launches that were looked at

    @property
    def n_lanes(self) -> int:
        return self._array.pack

    @property
    def start_method(self) -> str:
        """How jobs begin, one of `policy.START_METHODS`."""
        return self._options.get("start_method") or "spawn"

    @property
    def first_job(self) -> int:
        return next(iter(self._planned))

    @property
    def place(self) -> tuple[str, str, str, int]:
        """By which another process finds this worker."""
        return self.folder.path, self.launch, self._array.name, self._index

    @property
    def gpus_per_job(self) -> float | None:
        share: float | None = self._options.get("gpus_per_job")
        return share

    def run_lane(self, lane: int) -> Outcome:
        """As `Lane.run`; the task is started again where jobs are left for which it has no time, and
        ends where the scheduler has started this worker again elsewhere."""
        place = self._index * self.n_lanes + lane
        search = _search_jobs(self.folder, self.launch) if self._has_search else None
        candidates = self._candidates(self.launch, self._planned, place, partial(self._joined, place), search)
        limit_min = self._options.get("job_timeout_min")
        left = TimeLeft(self._ends_at, None if limit_min is None else limit_min * 60)
        is_alone = self.n_lanes == 1
        # of this submission alone: people may submit a script again
        name = f"{self._array.name}_{self._index}" if self._here is None else self._here.name
        runs = Runs(self.folder, self.launch, name, self._here)
        jobs = Lane(
            *(self.folder, candidates, left),
            is_alone=is_alone,
            note=_tell_of_refused,
            beginning=self._beginning,
        )
        return jobs.run(lambda: self._goes_on(candidates), is_newest=runs.is_newest)

    def _candidates(
        self,
        launch: str,
        planned: dict[int, int],
        place: int,
        joined: Callable[[], Sequence[Candidates]] = tuple,
        search: "SearchJobs | None" = None,
        *,
        max_retries: int | None = None,
    ) -> Candidates:
        most = self._array.max_retries if max_retries is None else max_retries
        again = Again(self.folder, launch, planned, self._here, most)
        n_places = (self._array.n_workers or 1) * self.n_lanes
        states = States(self.folder)
        return Candidates(states, launch, planned, place, n_places, again, joined=joined, search=search)

    def _joined(self, place: int) -> list[Candidates]:
        """The candidates of launches that have joined this array since this was asked the last time."""
        found = []
        for number in launch_numbers(self.folder):
            if int(number) <= int(self._newest):
                continue
            try:
                launch = read_launch(self.folder, number)
            except JobRefused as error:  # whoever looks at the experiment is told, too, and which jobs wait for it
                tell(f"launch {number} is left alone: {error}")
                continue
            finally:
                self._newest = number
            mine = [array for array in launched_arrays(launch) if array.name == self._array.name]
            if mine and launch.record.get("joins") == self.launch:
                planned = planned_attempts(launch)
                jobs = {job_id: planned[job_id] for array in mine for job_id in array.jobs}
                found.append(self._candidates(number, jobs, place, max_retries=mine[0].max_retries))
        return found

    def _goes_on(self, candidates: Candidates) -> bool:
        """Whether the scheduler is to start this task again, for the jobs that are left."""
        limit = self._options.get("max_requeues", self._options.get("max_num_timeout")) or 0
        return self._here is not None and self._here.restart < limit and candidates.has_left()

    def _ends_at(self) -> float | None:
        return _end_of_task(self._scheduler, self._here)


class LocalWorker:
    """The worker that a person has started, or a search that runs here: it runs the jobs of a launch on whatever
    machine it is, so many at a time, and ends when the process does that has started it.

    Of each job that has ended, a line on standard output tells: see `ended_in`.
    """

    def __init__(self, folder: Folder, launch: str) -> None:
        """Raises JobRefused where the launch is not for such a worker."""
        self._folder, self._launch = folder, launch
        found = read_launch(folder, launch)
        options = found.record.get("worker")
        if found.launcher == BY_HAND:
            options = found.record.get("options")
        if not isinstance(options, Mapping) or not isinstance(options.get("n_jobs"), int):
            raise JobRefused(f"launch {launch} of {folder.path} has no worker by hand; start one with `work`")
        self._options: Mapping[str, Any] = options
        self._limit_min: float | None = found.record.get("job_timeout_min")
        self._has_search = found.record.get("search_from") is not None
        planned = sorted(planned_attempts(found).items())
        n_there = len(planned) + (_unproposed(folder) if self._has_search else 0)
        first = int.from_bytes(os.urandom(4)) % max(1, len(planned))  # others that begin elsewhere seldom want the same
        self._planned = dict([*planned[first:], *planned[:first]])
        most = options.get("max_jobs") or n_there
        self.n_lanes = max(1, min(options["n_jobs"], n_there, most))
        self._permits = Permits(most) if options.get("max_jobs") else None  # a search may grow
        self._pid, self._end_with_us = os.getpid(), processes.dying_with_us(signal.SIGTERM)

    @property
    def gpus_per_job(self) -> float | None:
        share: float | None = self._options.get("gpus_per_job")
        return share

    def run_lane(self, lane: int) -> Outcome:
        """As `Lane.run`."""
        if os.getpid() != self._pid:
            self._end_with_us()
        search = _search_jobs(self._folder, self._launch) if self._has_search else None
        candidates = Candidates(*(States(self._folder), self._launch, self._planned, lane, self.n_lanes), search=search)
        limit_s = None if self._limit_min is None else self._limit_min * 60
        left = TimeLeft(self._ends_at, limit_s, ends_first_at=self._options.get("until"))
        is_alone = self.n_lanes == 1
        jobs = Lane(self._folder, candidates, left, is_alone=is_alone, permits=self._permits, note=_say_ended)
        return jobs.run()

    def _ends_at(self) -> float | None:
        task = schedulers.task_of_attempt(None)  # of an allocation that we are in
        of_task = _end_of_task(schedulers.current(), task)
        return None if of_task is None else min(of_task, self._options.get("until") or math.inf)


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """The answer; a file system that errs between two jobs is asked again as long as one that errs under a job. Raises
    FolderError where it goes on, and whatever else `ask` raises."""

    def again() -> Answer:
        try:
            return ask()
        except ExperimentManagerError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and is_of_the_disk(cause):
                raise cause from error
            raise

    try:
        return asked_again(again, tell)
    except OSError as error:
        raise FolderError(unreadable(error.filename or "a file of the experiment", error)) from error


def _search_jobs(folder: Folder, launch: str) -> "SearchJobs":
    from experiment_manager.execution.search import SearchJobs

    return SearchJobs(folder, launch)


def _unproposed(folder: Folder) -> int:
    from experiment_manager.execution.search import unproposed

    return unproposed(folder)


def ended_in(line: str) -> tuple[Candidate, float, str | None]:
    """What a line of a LocalWorker tells: which job has ended, after how many seconds, and why it was not run, if it
    was not. Raises ValueError for any other line."""
    job_id, number, launch, seconds, refused = json.loads(line)
    return Candidate(job_id, number, launch), seconds, refused


def _say_ended(one: Candidate, seconds: float, error: ExperimentManagerError | None) -> None:
    why = None if error is None else one_line(str(error), _MOST_OF_A_LINE)
    line = json.dumps([*one, round(seconds, 3), why], ensure_ascii=False)
    with suppress(OSError):  # nobody reads it any more
        os.write(1, f"{line}\n".encode())  # at once, and whole: other lanes write there, too


def _tell_of_refused(_one: Candidate, _seconds: float, error: ExperimentManagerError | None) -> None:
    if error is not None:
        tell(f"error: {error}")


def _end_of_task(scheduler: Scheduler | None, task: Task | None) -> float | None:
    return math.inf if scheduler is None or task is None else scheduler.ends_at(task)


def _array_of_workers(arrays: Sequence[LaunchedArray], name: str, index: int, where: str) -> LaunchedArray:
    found = next((array for array in arrays if array.name == name and array.n_workers is not None), None)
    if found is None or not 0 <= index < (found.n_workers or 0):
        raise JobRefused(f"{where} has no worker {index} of {name!r}; its scripts start those that it has")
    return found
