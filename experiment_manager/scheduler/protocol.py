"""What a scheduler is to us: the questions that it answers and the orders that it takes, in words that hold for all.

A scheduler is one class below `Scheduler`, made without arguments. SLURM's is in the folder `slurm`; one of somebody
else is found by its name in the entry points `experiment_manager.schedulers`, and proves itself with the tests of
`experiment_manager.testing`.

Every task of a sweep imports this, and the class of its scheduler: what is needed outside of tasks alone, as clients of
commands, is to be imported where it is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from experiment_manager.errors import OptionsError, SchedulerError
from experiment_manager.model.records import State, Task
from experiment_manager.typing_names import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from experiment_manager.scheduler.arrays import Array
    from experiment_manager.scheduler.records import Dependency, Limits, Options, Place, QueueRow, Run, Send, Share


class Stop(NamedTuple):
    """Why the scheduler ends a task, and how long it waits before it kills what is left (None: it did not say)."""

    state: State
    kill_wait_s: float | None


def require_line(name: str, text: str) -> None:
    """Raise OptionsError unless a line of a script can hold `text`."""
    if any(letter < " " or letter == "\x7f" for letter in text):
        raise OptionsError(f"{name} {text!r} holds a line break or another control character; choose another folder")


class Scheduler(ABC):
    """Everything that is asked of a scheduler. Methods raise SchedulerError where it refuses or cannot be asked."""

    name: ClassVar[str]
    """In anchors and launches, and the beginning of the names of its launchers: `slurm`."""

    label: ClassVar[str]
    """In messages: `SLURM`."""

    submit_command: ClassVar[str] = ""
    """The command by which people submit a script; empty where there is none."""

    order_s: ClassVar[float] = 60.0
    """How long, in seconds, an order may take before it is given up, and may have been carried out nevertheless."""

    rank_variable: ClassVar[str] = ""
    """In the environment of a rank, which one it is."""

    matches_tasks: ClassVar[bool] = False
    """Whether a task can wait for the task of its own index in another array, see `Dependency.matching`."""

    size_variables: ClassVar[tuple[str, ...]] = ()
    """There, too, how many ranks there are; the first that is set counts."""

    rank_names: ClassVar[str] = ""
    """A regular expression for all variables by which the ranks of a job know and find each other."""

    # ---------------------------------------------------------------- options and scripts

    @abstractmethod
    def options(self, values: Mapping[str, Any], *, where: str) -> Options:
        """The checked record of options; None is not set. Raises OptionsError, whose sentence begins with `where`."""

    @abstractmethod
    def kept(self, options: Any) -> dict[str, Any]:
        """The options that are set, ready for JSON; `options` takes them back."""

    @abstractmethod
    def script(self, array: Array, place: Place) -> str:
        """The text of the script that runs an array."""

    def head(self, array: Array, place: Place) -> list[str]:
        """The lines of that script by which it asks for what it needs; none where it has no such lines."""
        return []

    def in_force(self, options: Any) -> dict[str, Any]:
        """The options as `kept`, each as it holds: one may bound another."""
        return self.kept(options)

    def limits(self) -> Limits:
        from experiment_manager.scheduler.records import Limits

        return Limits(array_size=2**31 - 1, text=4000)

    def n_tasks(self, options: Mapping[str, Any]) -> int:
        """How many processes, each with its rank, a job with these options has."""
        return 1

    def takes(self, options: Mapping[str, Any]) -> tuple[str, float]:
        """What a job with these options takes while it runs, of what people count the hours of: 2 of `GPU`. One of
        `job` where that is not known."""
        return "job", 1.0

    def share(self, options: Mapping[str, Any]) -> Share:
        """What a job with these options has asked for, all its processes together."""
        from experiment_manager.scheduler.records import Share

        return Share()

    def fitting(self, need: Share, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options, in the place of these, with which a job gets what it needs and little more; None takes one away.
        Nothing is said of what is not known."""
        return {}

    # ---------------------------------------------------------------- orders and questions, from any machine

    @abstractmethod
    def require(self) -> None:
        """Raise SchedulerError unless the scheduler can be reached from this machine."""

    def cluster(self) -> str | None:
        """The name of the cluster, of several, that gets what is submitted here and now; None where there is one alone,
        or it does not tell its name."""
        return None

    def asked(self) -> frozenset[str] | None:
        """The names of the clusters that are asked here and now; None where they do not tell."""
        name = self.cluster()
        return None if name is None else frozenset({name})

    def why_unasked(self, clusters: Collection[str | None]) -> str | None:
        """Why nothing is asked now about what these clusters have, as `cluster` has named them, or their tasks
        (`Task.cluster`): none of them is asked. None: one of them is, or that is not known."""
        return None

    def is_available(self) -> bool:
        try:
            self.require()
        except SchedulerError:
            return False
        return True

    @abstractmethod
    def submit(self, script: str, after: Dependency) -> str:
        """The script is submitted, once; returns the id of the array. An error that is doubtful may have submitted."""

    def sender(self, options: Any) -> Send | None:
        """Another way to submit, by a program that may live on when we are ended; None: there is none."""
        return None

    def check(self, script: str) -> str:
        """What the scheduler would do with the script, in its own words; nothing is submitted."""
        self.require()
        return "not checked"

    @abstractmethod
    def queue(self, users: Iterable[str]) -> Sequence[QueueRow]:
        """Everything that waits or runs of these users, and what has ended a moment ago. What was refused is none."""

    @abstractmethod
    def history(self, names: Iterable[str], since: float) -> Sequence[Run] | None:
        """The runs, since then, of the arrays of these names; None where no history is kept. Where one is kept and does
        not answer, SchedulerError: then the queue has to be enough."""

    def queue_of(self, array: str) -> Sequence[QueueRow] | None:
        """The rows of the queue of one array, asked for by the id that it got; None where `queue` and `history` tell
        all that there is. A task that is neither here nor in `history_of` is gone."""
        return None

    def history_of(self, array: str, since: float) -> Sequence[Run] | None:
        """The runs of one array, as `history` tells them; asked where `queue_of` has an answer."""
        return None

    def never_begins(self, reason: str) -> bool:
        """Whether a task that waits for this reason waits until somebody does something about it."""
        return False

    def may_pass(self, reason: str) -> bool:
        """Whether a task that `never_begins` may begin all the same, without anybody doing something about it: when a
        service of the scheduler is back, or a limit was changed."""
        return False

    def way_out(self, reason: str) -> str:
        """What people can do about a task that waits for this reason; empty where they need not, or nobody knows."""
        return ""

    def script_of(self, array: str) -> str | None:
        """The text of the script that an array was submitted with; None where that is not told."""
        return None

    @abstractmethod
    def cancel(self, tasks: Iterable[tuple[str, int]]) -> None:
        """The tasks, by the id of their array and their index, are told to end; those that have ended do not matter."""

    def hold(self, tasks: Iterable[tuple[str, int]]) -> None:
        """The tasks, by the id of their array and their index, wait, and do not begin until they are released."""
        raise SchedulerError(f"{self.label} cannot hold what waits; cancel it first", words="it cannot hold")

    def release(self, tasks: Iterable[tuple[str, int]]) -> None:
        """The tasks that were held may begin; those that were not do not matter."""
        raise SchedulerError(f"{self.label} cannot hold what waits, nor release it", words="it cannot hold")

    def end_in_log(self, text: str) -> State | None:
        """How a task was ended, by the scheduler's words in the end of its log; None where it wrote none."""
        return None

    def last_words(self, log: str) -> str:
        """The last line of a task's log that is not the scheduler's."""
        return next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "")

    # ---------------------------------------------------------------- inside of a task

    @abstractmethod
    def task(self, environ: Mapping[str, str]) -> Task | None:
        """The task that a process with this environment runs in; None outside of this scheduler."""

    def why_stopped(self, task: Task) -> Stop:
        """What is being done to this task, asked while it is being told to end."""
        return Stop(State.CANCELLED, None)

    def is_being_preempted(self, task: Task) -> bool:
        """Whether it was announced that the task will lose its node, and has not happened yet."""
        return False

    def ends_at(self, task: Task) -> float | None:
        """When this run of the task will be ended at its time limit, in seconds since the epoch; infinite where it has
        none, None where that cannot be known."""
        return None

    @abstractmethod
    def has_ended(self, task: Task) -> bool:
        """Whether the scheduler says that this run of a task has ended, or was forgotten; false when it is silent."""

    def holds_what_names_it(self, task: Task) -> bool:
        """Whether what people have begun, and whose anchor names this task, is a part of it and ends with it. One may
        bear its environment outside of it."""
        return True

    def has_outlived(self, task: Task) -> bool:
        """Whether this process runs on although the task has ended whose environment it bears, as a shell may."""
        return self.has_ended(task)

    def ended(self, tasks: Collection[Task]) -> frozenset[Task]:
        """Those of which `has_ended` is true, by as few questions as can be."""
        return frozenset(task for task in tasks if self.has_ended(task))

    def may_hide(self, user: str | None) -> bool:
        """Whether this machine may not be told of that user's tasks (None: it is not known whose they are; one who is
        known by number has it as text): then it says nothing that none of them is told of."""
        return False

    def requeue(self, task: Task) -> str | None:
        """The task will be started again when it ends; else why not, in words."""
        return f"{self.label} starts no task again"

    def start_words(self, log: str, error_log: str | None, environ: Mapping[str, str]) -> list[str]:
        """The words before a program that is started once for each rank; each appends to logs of its own, whose names
        begin as `log` and `error_log` do (None: one log for both)."""
        return []

    def rank(self, environ: Mapping[Any, Any]) -> Any:
        """The rank of a process that `start_words` have started, from its environment (text, or bytes of /proc); None
        for a process that has none."""
        return None

    def is_before_ranks(self, environ: Mapping[str, str]) -> bool:
        """Whether this process is told of ranks, as a batch script is, and is none of them itself."""
        return False

    def load(self) -> None:
        """What the answers about a task need is imported: the package may be replaced while its job runs. Called when
        the job has begun."""
        return

    def first_failure(self, said: str) -> str | None:
        """What the end of the error log tells of the first rank that failed by itself."""
        return None

    def tells_out_of_memory(self, said: str) -> bool:
        """Whether the end of the error log tells that a rank was killed for memory."""
        return False

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """What a job of this scheduler is told beside its own variables."""
        return {}

    def cgroup(self, path: str) -> str | None:
        """The cgroup that the scheduler has made for the task around a cgroup; None: there is none."""
        return None
