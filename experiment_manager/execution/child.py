"""The child of a supervisor: which command runs a job, and how it is started."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from experiment_manager.errors import JobRefused, UnknownJob
from experiment_manager.execution import command, environment
from experiment_manager.execution.signals import waiting
from experiment_manager.model.records import NO_FUNCTIONS, Job, Recipe
from experiment_manager.scheduler import schedulers
from experiment_manager.store import processes
from experiment_manager.store.files import is_folder, log_file
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest, unconfigured, without_program
from experiment_manager.store.orders import Orders, require_array
from experiment_manager.store.programs import entry_of, missing_program, program_is_gone
from experiment_manager.text import tell
from experiment_manager.typing_names import Any, Final, NamedTuple, NoReturn

_STDERR: Final = 2


class BecomesJob(BaseException):
    """Raised in a copy of this process that becomes the program of a job: everything up to the first caller is left,
    which then runs the program. What is done on the way out is done in the copy, and must not touch what is ours."""

    def __init__(self, command: Sequence[str], target: tuple[str, ...], arguments: Sequence[str]) -> None:
        super().__init__(*command)
        self.command, self.target, self.arguments = command, target, arguments


class Child(NamedTuple):
    """What to run: the arguments of the program, where, and under which launch."""

    folder: Folder
    job_id: int
    arguments: list[str]
    cwd: str
    launch: str | None
    planned: int | None  # the number of the job's first attempt in that launch
    is_fake: bool
    needs_result: bool  # a runner may not run the job, and a command around it may end well when the job was killed
    scheduler: str | None  # that was asked to run it; None: a pool, which may be inside of a task, or a person
    options: Mapping[str, Any]  # of a launch that a scheduler runs
    variables: Mapping[str, str]  # of the environment, by which the program finds its modules
    limit_s: float | None = None  # how long an attempt may run, by its launch
    pruner: Mapping[str, Any] | None = None  # what tells it to end early
    upstream: Mapping[str, Any] | None = None  # what has to have completed before it begins, see `model.stages`
    only: int | None = None  # the one number that its attempt may have: others may take the job at the same time

    @property
    def about(self) -> dict[str, Any]:
        """What whoever claims an attempt of it says of the attempt."""
        scheduler = {} if self.scheduler is None else {"scheduler": self.scheduler}
        worker = {} if self.only is None else {"worker": True}  # its process goes on when the attempt has ended
        return {"launch": self.launch, **scheduler, **worker, **({"fake": True} if self.is_fake else {})}

    @property
    def has_ranks(self) -> bool:
        """Whether the scheduler starts the program several times."""
        if self.scheduler is None or self.is_fake:
            return False
        return schedulers.named(self.scheduler).n_tasks(self.options) > 1

    @property
    def is_wrapped(self) -> bool:
        """Whether our child is not the program itself but what starts it once, and tells by its status how that ended.
        Where there are ranks, the status is of any of them, and the result is of the first."""
        return bool(self.options.get("wrap")) and not self.has_ranks

    @property
    def is_one_log(self) -> bool:
        """Whether what the program says on stderr goes into the log of its output."""
        return bool(self.options.get("stderr_to_stdout"))

    def logs(self, attempt: int) -> tuple[str, str]:
        """Where the output of an attempt goes, and what it says on stderr."""
        out, err = (self.folder.of_attempt(self.job_id, attempt, kind) for kind in ("stdout", "stderr"))
        return out, err

    def environment(self, attempt: int, ours: Mapping[str, str]) -> dict[str, str]:
        """The environment of an attempt, made from ours: it has none of the ranks that we may have."""
        kept = (
            environment.of_a_task(ours, is_alone=not self.has_ranks)
            if self.scheduler is not None
            else environment.without_ranks(ours)
        )
        own = environment.of_attempt(self.folder, self.job_id, attempt, pruner=self.pruner, since=self.planned)
        for name in (environment.PRUNER_VARIABLE, NO_FUNCTIONS):
            kept.pop(name, None)
        return {**kept, **self._for_submitit(attempt), **own, "PYTHONUNBUFFERED": "1", **self.variables}

    def _for_submitit(self, attempt: int) -> dict[str, str]:
        """With which `submitit.JobEnvironment()` answers: programs ask it for ranks under any launcher."""
        if self.scheduler is not None:
            return schedulers.named(self.scheduler).environment(os.environ)
        _, log = self.logs(attempt)
        return {
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_JOB_ID": str(self.job_id),
            "SUBMITIT_FOLDER": os.path.dirname(log),
            **{f"SUBMITIT_LOCAL_{name}": "1" for name in ("NTASKS", "JOB_NUM_NODES")},
            **{f"SUBMITIT_LOCAL_{name}": "0" for name in ("NODEID", "GLOBALID", "LOCALID")},
        }


def prepare(
    folder: Folder,
    job_id: int,
    *,
    launch: str | None,
    is_fake: bool,
    runner: Sequence[str] | None = None,
    orders: Orders | None = None,
    array: str | None = None,
) -> Child:
    """The child for a job that may run. Raises JobRefused, UnknownJob, FilterError; nothing is written.

    `runner` are the words of a command that runs jobs which were written in Python; a launch may name one, too. Whoever
    prepares many jobs keeps `orders`. A task says of which `array` of the launch it is.
    """
    try:
        point, recipe, may_compose = _known(folder, job_id)
    except UnknownJob:
        from experiment_manager.store.manifest_editor import newest  # which few jobs need

        newest(folder)  # a slow planner may have put an older one in its place
        point, recipe, may_compose = _known(folder, job_id)
    order, here = None, os.getcwd()
    if launch is not None:
        if array is not None:
            require_array(folder, launch, array)
        order = (orders or Orders(folder)).required(launch, job_id)
        if recipe is None:  # jobs of a sweep have a command of their own
            runner = runner or command.runner_here(folder, order.runner)
        elif not is_fake and order.recipe not in (None, point.recipe):
            _refuse_other_code(folder, point, recipe, launch, order.recipe)
        here = order.cwd if order.options is not None else here  # scripts can be submitted from anywhere
    elif not _passes(folder, job_id):
        raise JobRefused(outside_filter(job_id, folder))
    elif not is_fake:
        _refuse_by_hand(folder, job_id)
    options = (order.options if order is not None else None) or {}
    arguments = _program(folder, point, recipe, is_fake=is_fake, runner=runner, may_compose=may_compose)
    if not is_fake:
        wrap = options.get("wrap", ())  # a container may have what is not here
        if recipe is not None and not wrap and (missing := missing_program(folder, recipe)) is not None:
            raise JobRefused(program_is_gone(missing, [job_id], folder))
        arguments = [*wrap, *arguments]
    return Child(
        folder=folder,
        job_id=job_id,
        arguments=arguments,
        cwd=entry_of(folder, recipe).cwd if recipe is not None and not is_fake else here,
        launch=launch,
        planned=None if order is None else order.attempt,
        is_fake=is_fake,
        needs_result=not is_fake and (runner is not None or bool(options.get("wrap"))),
        scheduler=None if order is None else order.scheduler,
        options=options,
        variables={} if recipe is None else command.variables_of(folder, recipe, os.environ),
        limit_s=None if order is None or is_fake else order.limit_s,
        pruner=None if order is None or is_fake else order.pruner,
        upstream=None if order is None or is_fake else order.upstream,
    )


def _known(folder: Folder, job_id: int) -> tuple[Job, Recipe | None, bool]:
    """What the manifest says of a job, and whether a search may still propose it. Raises UnknownJob."""
    with Manifest(folder) as manifest:
        point = manifest.job(job_id)
        recipe = manifest.recipe(point.recipe) if point.recipe is not None else None
        return point, recipe, manifest.may_propose(job_id)


def _program(
    folder: Folder,
    point: Job,
    recipe: Recipe | None,
    *,
    is_fake: bool,
    runner: Sequence[str] | None,
    may_compose: bool,
) -> list[str]:
    """The arguments of the program. Raises JobRefused when nothing can run the job; one without a configuration may
    compose it when it runs first, if a search has proposed it."""
    where = f"job {point.id} of {folder.path}"
    if runner is not None and recipe is not None:
        raise JobRefused(f"{where} is a job of a sweep and has a command of its own; leave --runner out")
    if runner is not None and (missing := command.missing_file(runner)):
        raise JobRefused(f"the runner {missing} is not there; name a script that calls Experiment.run_id")
    if point.fingerprint is None and (is_fake or not may_compose):
        raise JobRefused(unconfigured(point.id, folder))
    if is_fake:
        return [sys.executable, "-P", "-m", "experiment_manager.execution.in_process"]
    if recipe is not None:
        if not recipe.has_program:
            raise JobRefused(without_program(point.id, folder))
        if recipe.code is not None and not is_folder(folder.join(recipe.code.path)):
            raise JobRefused(
                f"{where} runs from the snapshot {folder.join(recipe.code.path)}, which is not there; the same sweep "
                "makes a new one"
            )
        return command.job_command(folder, point, recipe)
    if runner is not None:
        return command.runner_command(folder, point, runner)
    raise JobRefused(f"{where} was written in Python: name the script that runs it with --runner runner.py")


def _refuse_other_code(folder: Folder, point: Job, recipe: Recipe, launch: str, launched: int) -> None:
    """Raise JobRefused where the launch was made to run the job from a snapshot, and a later one has given it other
    code: it would run that, and its launch would say otherwise."""
    with Manifest(folder) as manifest:
        code = manifest.recipe(launched).code
    if code is not None and (recipe.code is None or recipe.code.path != code.path):
        now = "the code as it is" if recipe.code is None else f"the snapshot {recipe.code.path}"
        raise JobRefused(
            f"job {point.id} of {folder.path} was to run from the snapshot {code.path} in launch {launch}, and a later "
            f"sweep has launched it with {now}; submit that launch, or sweep again with the code of this one"
        )


def _refuse_by_hand(folder: Folder, job_id: int) -> None:
    """Raise JobRefused where a job that somebody starts by hand could be a program of anybody's, or comes after others
    that have not completed."""
    from experiment_manager.store.launches import kept_upstream
    from experiment_manager.store.trust import refuse_to_begin_what_anybody_writes

    refuse_to_begin_what_anybody_writes(folder)
    kept = kept_upstream(folder, [job_id]).get("upstream")
    if kept is None:
        return
    from experiment_manager.model.stages import by_job  # for the few jobs that come after others
    from experiment_manager.store.upstream import settled

    found = settled(folder, by_job(kept)[job_id], job_id, lambda _: True, 0.0)
    if found is not None and found.why_not is not None:
        raise JobRefused(f"job {job_id} of {folder.path} is not begun: {found.why_not}")


def _passes(folder: Folder, job_id: int) -> bool:
    from experiment_manager.store.pass_filter import read_selection

    return job_id in read_selection(folder)


def outside_filter(job_id: int, folder: Folder) -> str:
    """The sentence for a job that was not selected."""
    from experiment_manager.model.ids import format_ids
    from experiment_manager.store.holds import why_not_begun
    from experiment_manager.store.pass_filter import read_selection

    if why_not := why_not_begun(folder, [job_id]):  # what was removed passes no filter
        return f"{folder.path}: {why_not}"
    return (
        f"job {job_id} is outside the pass filter of {folder.path}, which lets pass "
        f"{format_ids(read_selection(folder))}; change the filter with save_pass_filter or `experiment-manager filter`"
    )


def start(child: Child, attempt: int) -> int:
    """The program runs in a session of its own, with its output going to the logs of the attempt.

    Returns its pid, which the caller has to reap. Raises OSError.
    """
    arguments = [*child.arguments]
    log, error_log = child.logs(attempt)
    if child.has_ranks and child.scheduler is not None:
        scheduler = schedulers.named(child.scheduler)
        arguments = [*scheduler.start_words(log, None if child.is_one_log else error_log, os.environ), *arguments]
    with log_file(log) as out, log_file(error_log) as err:
        outputs = (out, out if child.is_one_log and not child.has_ranks else err)
        return _started(arguments, child.cwd, child.environment(attempt, os.environ), outputs)


def _started(arguments: list[str], cwd: str, environment: Mapping[str, str], outputs: tuple[int, int]) -> int:
    """The pid of our child that executes a program, with nothing open but the null device and its outputs. Raises
    OSError.

    `subprocess` does the same for 4.8 ms of processor time instead of 2.2 (measured): a worker does little else.
    """
    die_with_us, strangers = expendable(), _inheritable()
    output, error_output, told, tell_error = (_beside_standard(handle) for handle in (*outputs, *os.pipe()))
    with waiting() as hear_apart:
        try:
            pid = processes.fork_to_execute()
        except OSError:
            os.close(told)
            os.close(tell_error)
            raise
        if not pid:
            try:
                die_with_us()
                os.setsid()
                os.chdir(cwd)
                for handle in strangers:
                    os.close(handle)
                for handle, standard in ((os.open(os.devnull, os.O_RDWR), 0), (output, 1), (error_output, _STDERR)):
                    os.dup2(handle, standard)
                hear_apart()
                _execute(arguments, environment)
            except BaseException as error:  # nothing else may leave this process: it is a copy of the supervisor
                os.write(tell_error, str(getattr(error, "errno", None) or errno.EINVAL).encode())
            finally:
                os._exit(1)
    os.close(tell_error)
    wait_until_begun(pid, told)
    return pid


def _inheritable() -> list[int]:
    """What is open here, and a program that we execute would have open, too: whoever started us has left it so."""
    found = []
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # it was the handle by which the folder was read
            if int(name) > _STDERR and os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def _beside_standard(handle: int) -> int:
    """The handle, or a copy of it, that is none of the three that each program has."""
    while handle <= _STDERR:
        handle = os.dup(handle)
    return handle


def _execute(arguments: list[str], environment: Mapping[str, str]) -> NoReturn:
    """This process is the program. Raises OSError, as a shell finds it: what is no file does not tell of the rest."""
    name, refused = arguments[0], None
    for place in [""] if os.path.dirname(name) else os.get_exec_path(environment):
        try:
            os.execve(os.path.join(place, name), arguments, environment)
        except (FileNotFoundError, NotADirectoryError) as error:
            missing = error
        except OSError as error:
            refused = refused or error
    raise refused or missing


def wait_until_begun(pid: int, told: int) -> None:
    """Our child is ready: nobody can tell us of an error any more. Raises OSError, when it has told of one."""
    with os.fdopen(told, "rb") as file:
        number = file.read()
    if number:
        os.waitpid(pid, 0)
        raise OSError(int(number), os.strerror(int(number)))


def exit_status_of(error: OSError) -> int:
    """As a shell has it of a program that could not be started: it is not there, cannot be executed, or else."""
    unusable = (errno.EACCES, errno.EPERM, errno.ENOEXEC)
    return 127 if error.errno == errno.ENOENT else 126 if error.errno in unusable else 1


def expendable() -> Callable[[], None]:
    """Runs in the child before the job: it dies when we are killed, and the OOM killer takes it rather than us."""
    dying_with_us = processes.dying_with_us()

    def prepare_child() -> None:
        dying_with_us()
        try:
            handle = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        except OSError:
            return
        try:
            os.write(handle, b"500")
        except OSError:
            pass
        finally:
            os.close(handle)

    return prepare_child


@contextmanager
def own_temporary_folder(job_id: int) -> Iterator[None]:
    """Inside, TMPDIR is a folder of this job alone, which then is removed: jobs on one node would find each other's
    files under the names that programs give them. Where it cannot be made the job shares what the others have."""
    import tempfile
    from shutil import rmtree

    before, ours = os.environ.get("TMPDIR"), os.getpid()
    try:
        folder = tempfile.mkdtemp(prefix=f"job-{job_id}-", dir=before)
    except OSError as error:
        tell(f"job {job_id} has no folder of its own for temporary files: {error.strerror or error}")
        yield
        return
    os.environ["TMPDIR"] = folder
    try:
        yield
    finally:
        if os.getpid() == ours:  # a copy of this process is the job
            del os.environ["TMPDIR"]
            os.environ |= {} if before is None else {"TMPDIR": before}
            rmtree(folder, ignore_errors=True)
