"""`Experiment`: an experiment in Python. Define jobs, choose those that may run, run them, and read what they left.

Each method hands its work to the functions that the commands use, too; what it returns is a record or a row of plain
values, listed in `experiment_manager.__all__`. A method imports what it alone needs: every task that runs a job written
in Python imports this module, as does every command.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Self

from experiment_manager.errors import ExperimentManagerError, FilterError, FolderError, JobRefused
from experiment_manager.execution.in_process import attempting, is_current, leave_result, print_job
from experiment_manager.model import codec
from experiment_manager.model.ids import one_id
from experiment_manager.store.drafts import JobDrafts
from experiment_manager.store.files import below, entries_in, is_folder, is_there, looked, space_below, unreadable
from experiment_manager.store.launches import clear_leftovers
from experiment_manager.store.layout import MANIFEST, Folder, planning
from experiment_manager.store.pass_filter import has_selection, read_selection, write_selection
from experiment_manager.store.results import (
    Loader,
    Saver,
    have_job_file,
    json_loader,
    json_saver,
    load_job_file,
    numpy_loader,
    numpy_saver,
    save_job_file,
    torch_loader,
    torch_saver,
)
from experiment_manager.text import counted, described, followed, listed, noun, skipped, tell

if TYPE_CHECKING:
    from datetime import datetime

    import optuna
    import pandas

    from experiment_manager.analysis.cleaning import Cleaning
    from experiment_manager.analysis.comparison import Comparison, Logged
    from experiment_manager.analysis.doctor import Finding
    from experiment_manager.analysis.efficiency import Efficiency
    from experiment_manager.analysis.export.exporting import Exported
    from experiment_manager.analysis.scores import How, Scored
    from experiment_manager.analysis.series import Series
    from experiment_manager.analysis.status import Status
    from experiment_manager.execution.resubmit import Resubmission, Resubmitted
    from experiment_manager.execution.work import Worked
    from experiment_manager.hydra.from_python import Launched, Task
    from experiment_manager.model.filters import Selection
    from experiment_manager.model.records import Counts, Job
    from experiment_manager.model.rows import JobDetails, JobDifference, JobRow, ResultRow, Rows
    from experiment_manager.scheduler.healing import Healing
    from experiment_manager.scheduler.holding import Held
    from experiment_manager.scheduler.query import Answer
    from experiment_manager.scheduler.slurm.configuration import SLURM
    from experiment_manager.scheduler.submission import Submitted
    from experiment_manager.store.states import StateTable

Runner = Callable[[int, dict[str, Any], Any], Any]
"""`runner(job_id, variables, configuration)`; what it returns becomes the job's result."""

_LISTS = ("by", "over", "tasks")
_MOST_ASKED = 1000
_READ_AT_ONCE = 8


class Experiment:
    """A named folder of jobs which differ in a few variables.

    `variables` are the names of what changes from job to job. The folder is `<abs_folder_path>/<experiment_name>`; it
    is written by `save()`. Where it is there already, jobs that it has keep their ids and new ones follow, so that the
    program which defines an experiment can be run again, also with a larger grid.

    Where a method takes `where`, that is a pass filter in any form: `"seed < 3"`, `{"algorithm": "TD3"}`, `"0-3,7"`,
    ids, `"state:FAILED"`, a function of the variables, a list of those; None lets all jobs pass. It raises FilterError
    for a filter that cannot be read or evaluated. Every method that reads raises FolderError or ManifestError where the
    folder cannot be read.

    Raises FolderError for a name that no folder can bear.
    """

    def __init__(self, variables: Sequence[str], experiment_name: str, abs_folder_path: str | os.PathLike[str]) -> None:
        self.folder = Folder(abs_folder_path, experiment_name)
        self._drafts = JobDrafts(self.folder, listed(variables))
        self._slurm: SLURM | None = None

    @classmethod
    def load(cls, experiment_name: str, experiment_path: str | os.PathLike[str]) -> Self:
        """The experiment that is in `<experiment_path>/<experiment_name>`, also one that the original library wrote.

        Raises FolderError where there is none, ManifestError where it is damaged.
        """
        return cls._loaded(Folder(experiment_path, experiment_name))

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Self:
        """The experiment in its own folder, `path`. Raises as `load` does."""
        return cls._loaded(Folder.at(path))

    @classmethod
    def _loaded(cls, folder: Folder) -> Self:
        drafts = JobDrafts.load(folder)
        experiment = cls(drafts.variables, folder.name, folder.parent)
        experiment._drafts = drafts
        return experiment

    @classmethod
    def from_sweep(
        cls,
        config_dir: str | os.PathLike[str],
        config_name: str,
        overrides: Sequence[str] = (),
        *,
        experiment_name: str | None = None,
        experiment_path: str | os.PathLike[str] | None = None,
    ) -> Self:
        """The experiment that `python train.py -m <overrides>` would make of the YAML in `config_dir`, without a
        program: the same jobs, ids, pass filter and frozen configurations. `launch` runs them.

            exp = Experiment.from_sweep("conf", "train", ["algorithm=TD3,DDPG", "seed=1,2,3"])

        `overrides` are those of the command line, `hydra.sweeper.pass_filter=...` and its like among them. The folder
        is `<experiment_path>/<experiment_name>`, by default as the YAML says, else `experiments/<config_name>`; what is
        there already keeps its ids, so that the same cell can be run again, also with a larger grid. It is composed as
        a program with `version_base=None` does. Raises ExperimentManagerError for what cannot be composed, with nothing
        written.
        """
        from experiment_manager.hydra.from_python import define

        return cls._loaded(
            define(
                config_dir,
                config_name,
                overrides,
                experiment_name=experiment_name,
                experiment_path=experiment_path,
            )
        )

    def __repr__(self) -> str:
        return f"Experiment({self.variables}, {self.experiment_name!r}, {self.folder.parent!r})"

    def _repr_html_(self) -> str | None:
        """What the files tell at once; nobody is asked how the jobs stand."""
        from experiment_manager.analysis.jobs import selected_ids
        from experiment_manager.model import html

        try:
            n_jobs, n_selected = len(self.get_all_ids()), len(selected_ids(self.folder) or ())
        except ExperimentManagerError:
            return None  # what `repr` says holds all the same
        row = {"jobs": n_jobs, "may run": n_selected, "variables": ", ".join(self.variables)}
        return html.block(html.sentence(f"experiment {self.experiment_name} in {self.folder.path}"), html.table([row]))

    @property
    def experiment_name(self) -> str:
        """The name of the experiment, which is that of its folder."""
        return self.folder.name

    @property
    def variables(self) -> list[str]:
        """The names of what changes from job to job, in the order in which they were given."""
        return self._drafts.variables

    # -- defining ----------------------------------------------------------------------------------------------------

    def add_job(self, variables: Mapping[str, Any], configuration: Any) -> int:
        """A job with these variables is in the experiment; returns its id.

        `configuration` holds all parameters of the job: mappings, lists, numbers, text.
        Raises DuplicateJob (a ValueError) when these variables are there already; ConfigurationChanged when the folder
        has them with another configuration; UnstorableValue for what the manifest cannot hold.
        """
        return self._drafts.add(variables, configuration)

    def save(self) -> None:
        """The manifest has all jobs of this experiment, and the SLURM options that were set lie beside it.

        Raises FolderError when the folder cannot be written, or somebody else has added jobs of the same ids.
        """
        with planning(self.folder):
            clear_leftovers(self.folder)
            if self._slurm is not None:
                self._slurm.save(self.folder.slurm_config)
            self._drafts.write()

    def set_slurm_config(self, slurm: "SLURM") -> None:
        """The options of SLURM jobs are these; `save` writes them beside the manifest."""
        self._slurm = slurm

    @property
    def slurm_config(self) -> "SLURM | None":
        """The options of SLURM jobs, as they were set or saved; None when there are none. Raises OptionsError."""
        if self._slurm is None and is_there(self.folder.slurm_config):
            from experiment_manager.scheduler.slurm.configuration import SLURM

            self._slurm = SLURM.load(self.folder.slurm_config)
        return self._slurm

    # -- jobs --------------------------------------------------------------------------------------------------------

    def iter_jobs(self) -> "Iterator[Job]":
        """The jobs of this experiment, ordered by id: those added here; after `load`, and while none was added, those
        of the folder."""
        return iter(self._drafts)

    def job(self, job_id: int) -> "Job":
        """One job. Raises UnknownJob."""
        return self._drafts.job(job_id)

    def jobs_of(self, ids: Sequence[int]) -> "list[Job]":
        """Several jobs, in the order of these ids, read at once. Raises UnknownJob."""
        return self._drafts.jobs(ids)

    def configuration(self, job_id: int) -> Any:
        """All parameters of a job, as plain values; None while it has none. Raises UnknownJob."""
        return codec.decode(self._drafts.encoded(job_id))

    # -- choosing ----------------------------------------------------------------------------------------------------

    def get_all_ids(self) -> list[int]:
        """The ids of all jobs of this experiment, in order."""
        return self._drafts.ids()

    def get_ids(self, pass_filter: Any) -> list[int]:
        """The ids of the jobs that pass: a function of the variables, or any other form of the pass filter.

            exp.get_ids(lambda variables: variables["algorithm"] == "TD3")
            exp.get_ids("algorithm == 'TD3' and seed < 3")

        Raises FilterError.
        """
        return [job.id for job in self.select(pass_filter).jobs]

    def get_random_ids(self, n_jobs: int, seed: int | None = None) -> list[int]:
        """The ids of `n_jobs` jobs, drawn at random without repetition, in order; the same ones for the same seed.

        Raises FilterError unless there are that many.
        """
        import random

        ids = self.get_all_ids()
        if not 0 < n_jobs <= len(ids):
            raise FilterError(f"{counted(n_jobs)} cannot be drawn from {len(ids)} in {self.folder.path}; ask for fewer")
        return sorted(random.Random(seed).sample(ids, n_jobs))

    def select(self, pass_filter: Any) -> "Selection":
        """The jobs that pass a filter in any form, and those that each rule dropped: the explanation of `get_ids`.

        Raises FilterError for what cannot be evaluated; that nothing passes is no error.
        """
        return self._select(pass_filter, cache(self.states), is_none_told=False)

    def _select(self, pass_filter: Any, table: "Callable[[], StateTable]", *, is_none_told: bool = True) -> "Selection":
        """The jobs that pass. A line on standard error tells of a value that no job has, where nothing passes, unless
        whoever asks tells of that."""
        from experiment_manager.analysis.results import facts
        from experiment_manager.model import filters

        jobs, rules = list(self.iter_jobs()), filters.parse(pass_filter)
        known = facts(self.folder, jobs, self._drafts.resolved, table)
        known = known._replace(names=known.names.union(self.variables))  # also before there is any job
        found = filters.apply(rules, jobs, known)
        if is_none_told and (line := filters.none_told(rules, found, jobs, known)) is not None:
            tell(line)
        return found

    def save_pass_filter(self, allowed_ids: Iterable[int], how: Any = None) -> None:
        """These jobs, and no others, may run. `how` says for people how they were chosen.

        Raises UnknownJob, and FilterError for no jobs at all.
        """
        self.folder.require()
        write_selection(self.folder, self._drafts.known_ids(allowed_ids), how)

    def _chosen(self, where: Any) -> "tuple[list[int], StateTable]":
        """The ids of the jobs that pass, and the states by which they do."""
        table = self.states()
        return [int(job.id) for job in self._select(where, lambda: table).jobs], table

    def get_filtered_ids(self) -> list[int]:
        """The ids that may run. Raises FilterError when none were chosen yet."""
        return read_selection(self.folder)

    def rules(self, where: Sequence[str] | None, *, selected: bool = False) -> list[Any] | None:
        """Several conditions, and where `selected` the saved pass filter, as one filter; None: nothing is asked for.

        Raises FilterError when the saved filter is asked for and cannot be read.
        """
        return [*([self.get_filtered_ids()] if selected else []), *listed(where or [])] or None

    # -- running -----------------------------------------------------------------------------------------------------

    def run_id(self, job_id: int, runner: Runner) -> Any:
        """The job has run in this process: `runner(job_id, variables, configuration)`. Returns what it returned.

        The attempt, its result or its exception are recorded. `job_id` is the id of a job, never a position.
        Raises JobRefused for a job outside the pass filter, and when another attempt runs; Unwritten, which is an
        OSError, too, where the disk takes neither the result nor how the attempt ended.
        """
        from experiment_manager.execution.child import outside_filter

        job = self.job(job_id)
        job_id = int(job.id)
        if not is_current(self.folder, job_id) and job_id not in self.get_filtered_ids():
            raise JobRefused(outside_filter(job_id, self.folder))
        configuration = self.configuration(job_id)
        is_fake = getattr(runner, "__func__", runner) is Experiment.fake_runner
        with attempting(self.folder, job_id, is_fake=is_fake) as attempt:
            value = runner(job_id, dict(job.variables), configuration)
            attempt.leave(value)
        return value

    def run(
        self,
        runner: str | os.PathLike[str] | Runner | None = None,
        *,
        where: Any = None,
        n_jobs: int = 1,
        gpus_per_job: float | None = None,
        max_jobs: int | None = None,
        until: "str | datetime | None" = None,
        rerun: str = "failed",
        job_timeout_min: float | None = None,
    ) -> "Worked":
        """Jobs that may run have run here, each in a process of its own: `experiment-manager work`.

        `runner` is a script as for `generate_slurm_script`, or a function as for `run_id`, which is pickled, so it must
        hold nothing that cannot be; jobs of a sweep need none. Run are those that pass `where`, too, and have not begun
        or, by `rerun`, have ended; what waits for a scheduler is left to it. The same may be called at once by others,
        on any machine that sees the folder: they share the jobs, and each job runs once.

        `n_jobs` run at a time (-1: one for each processor), each with `gpus_per_job` of the GPUs (None: an equal
        share), `max_jobs` in all. None begins that could not end by `until`, a time of day ("18:00"), or a day and a
        time: by `job_timeout_min`, after which a job is told to end, or else by how long jobs have taken so far.

        Raises JobRefused, OptionsError, FilterError; KeyboardInterrupt after INT, TERM and HUP, which tell the running
        jobs to end.
        """
        from experiment_manager.execution.work import Terms, work
        from experiment_manager.model import filters

        if getattr(runner, "__func__", runner) is Experiment.fake_runner:
            raise JobRefused("fake_runner runs nothing; print a single job with run_id(id, exp.fake_runner)")
        terms = Terms.checked(
            n_jobs=n_jobs,
            gpus_per_job=gpus_per_job,
            max_jobs=max_jobs,
            until=until,
            rerun=rerun,
            job_timeout_min=job_timeout_min,
        )
        selection = self._select(where, cache(self.states), is_none_told=False)
        filters.require_some(selection.jobs, selection.dropped, list(self.iter_jobs()), self.folder.path)
        return work(
            self.folder,
            [int(job.id) for job in selection.jobs],
            runner=os.fspath(runner) if isinstance(runner, os.PathLike) else runner,
            configured=self.slurm_config,
            terms=terms,
            joins_search=where is None,
        )

    def launch(self, launcher: str, task: "Task | None" = None, *, rerun: str = "failed", **options: Any) -> "Launched":
        """The jobs of a sweep that may run, and have not begun or, by `rerun`, have ended, were handed to a launcher:
        with `local_pool` they have run here, with `slurm_script` their scripts are written, with `slurm_submitit` they
        are submitted.

            exp.launch("local_pool", "train.py", n_jobs=4)
            exp.launch("slurm_submitit", "train.py", partition="gpu", timeout_min=600)

        `task` is what runs a job: the path of a Hydra program, `"module:function"`, or a function that takes the
        configuration; None: what has run it before. A function of a notebook or a prompt is pickled with what it uses,
        since each job is a process of its own, so it must hold nothing that cannot be. `options` are those of the
        launcher, `hydra.launcher.*`; those that the sweep's YAML sets for it count, too.

        Raises JobRefused, OptionsError, FreezeError for a function that cannot be pickled; KeyboardInterrupt after INT,
        TERM and HUP, when the jobs that ran here have ended, as CANCELLED.
        """
        from experiment_manager.hydra.from_python import launch

        return launch(self.folder, launcher, task, options, rerun=rerun)

    def fake_runner(self, job_id: int, variables: Mapping[str, Any], configuration: Any) -> None:
        """Prints the job instead of running it, and leaves its configuration as a result: `run_id(3, exp.fake_runner)`.

        The attempt ends as FAKE and not as COMPLETED, so the job is still run for real.
        """
        job_id = one_id(job_id)
        print_job(job_id, variables, configuration)
        leave_result(self.folder, job_id, configuration)

    def generate_slurm_script(
        self,
        python_script: str | None = None,
        job_name: str | None = None,
        n_jobs: int | None = None,
        *,
        rerun: str = "failed",
        overrides: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """The array scripts that run the jobs which pass the filter are written; returns their paths.

        `python_script` (or the python_runner of the SLURM options) runs a job, see `run_id`; jobs of a sweep need none.
        Of the jobs that pass, those that have completed, run or wait are left out (`rerun`, as in a sweep), and with
        `n_jobs` the first that many of the others are taken. `overrides` replace options of `set_slurm_config`.
        Raises OptionsError, JobRefused when there is nothing to run, FilterError before a filter was saved.
        """
        from experiment_manager.scheduler import scripts

        return scripts.write(
            self.folder, self.slurm_config, runner=python_script, name=job_name, n_jobs=n_jobs, rerun=rerun,
            overrides=overrides or {},
        ).paths  # fmt: skip

    def submit(self, launch: str | None = None, *, workers: int | None = None) -> "list[Submitted]":
        """The scripts of the newest launch (or of that one) are submitted, each once, however often this is called.

        With `workers`, scripts of so many workers are written first, for the jobs that pass the filter and are to run:
        `generate_slurm_script` with that option. Returns one record per array script. Raises SlurmError with SLURM's
        own words; what was not submitted is not recorded. Raises JobRefused when there is no such launch.
        """
        from experiment_manager.scheduler.submission import newest_launch, submit

        if workers is not None:
            if launch is not None:
                raise JobRefused(f"workers={workers} makes a launch of its own; leave launch {launch} out")
            self.generate_slurm_script(overrides={"workers": workers})
        return submit(self.folder, newest_launch(self.folder, launch))

    def cancel(self, where: Any = None) -> list[int]:
        """The jobs that wait or run, of those that pass a filter, were told to end; returns their ids."""
        from experiment_manager.scheduler.cancel import cancel

        return cancel(self.folder, *self._chosen(where), are_all=where is None)

    def hold(self, where: Any = None) -> "Held":
        """Of the jobs that pass a filter, those that neither run nor are done are held: no sweep, worker, launcher or
        resubmission begins them until they are released; what waits at SLURM is held there: `experiment-manager hold`.

        Raises JobRefused, with nothing done, for jobs that share a task with others which are not held; SchedulerError.
        """
        from experiment_manager.scheduler.holding import hold

        self.folder.require()
        return hold(self.folder, *self._chosen(where))

    def release(self, where: Any = None) -> list[int]:
        """The jobs that pass a filter may begin; returns the ids of those that were held: `experiment-manager release`.
        Raises SchedulerError."""
        from experiment_manager.scheduler.holding import release

        self.folder.require()
        return release(self.folder, *self._chosen(where))

    def remove(self, where: Any = None, *, files: bool = False, undo: bool = False) -> list[int]:
        """The jobs that pass a filter, which were a mistake, are in no grid, table or count any more; returns their
        ids: `experiment-manager remove`.

        Their ids stay used, a sweep that asks for them leaves them out, and what they have left stays where it is,
        unless `files` asks for it to be gone. With `undo` those that were removed, of the ids `where`, are there again.
        Raises JobRefused, with nothing done, for one that runs or waits; FilterError where nothing is named.
        """
        from experiment_manager.model.ids import ids_in
        from experiment_manager.scheduler.holding import bring_back, remove

        self.folder.require()
        if undo:
            return bring_back(self.folder, None if where is None else ids_in(where))
        if where is None:
            raise FilterError("name the jobs that are to be removed, as 3,7")
        return remove(self.folder, *self._chosen(where), with_files=files)

    def resubmit(self, where: Any = None, *, state: str | None = None, **options: Any) -> "Resubmitted":
        """Jobs that ended badly run again, with the same ids and configurations: `plan_resubmission`, carried out.

        Where none of them is to run again, nothing is done, and the record names no launch.
        """
        return self.carry_out(self.plan_resubmission(where, state=state, **options))

    def heal(self) -> "Healing":
        """Jobs that died for want of memory or time under `on_oom` or `on_timeout` are submitted again with more, each
        once, however often and by however many this is called. Their supervisors do so themselves where they can."""
        from experiment_manager.scheduler.healing import heal

        return heal(self.folder)

    def plan_resubmission(
        self,
        ids: Any = None,
        *,
        state: str | None = None,
        where: Any = None,
        settings: Mapping[str, Any] | None = None,
        launcher: str | None = None,
        runner: str | None = None,
        n_jobs: int | None = None,
        gpus_per_job: float | None = None,
        job_timeout_min: float | None = None,
    ) -> "Resubmission":
        """Which jobs would run again and how; nothing is written: `experiment-manager resubmit` before its question.

        `ids` are ids and ranges, or a filter, as `where` is; `state` names states (`failed,timeout,oom`; by default all
        that are bad); `settings` change SLURM options of the last launch, whose launcher is used unless one is named.
        Raises JobRefused, OptionsError, FilterError.
        """
        from experiment_manager.execution.resubmit import plan
        from experiment_manager.model import filters

        table = self.states()
        ids = list(ids) if isinstance(ids, Iterator) else ids
        rules = [rule for rule in (ids, where) if rule is not None]
        return plan(
            self.folder,
            self._select(rules or None, lambda: table).jobs,
            table,
            states=None if state is None else filters.parse_states(state),
            are_named=ids is not None and all(isinstance(rule, filters.Ids) for rule in filters.parse(ids)),
            launcher=launcher,
            settings=settings or {},
            slurm=self.slurm_config,
            runner=runner,
            n_jobs=n_jobs,
            gpus_per_job=gpus_per_job,
            job_timeout_min=job_timeout_min,
        )

    def carry_out(self, planned: "Resubmission") -> "Resubmitted":
        """The jobs run again, or wait for SLURM. Raises JobRefused when somebody has started one of them meanwhile."""
        from experiment_manager.execution.resubmit import carry_out

        return carry_out(self.folder, planned)

    # -- files of the user's own -------------------------------------------------------------------------------------

    def save_results(
        self,
        id: int,  # noqa: A002 - the name is a contract
        filename: str,
        saver: Saver,
        results: Any,
        override: bool = False,
    ) -> None:
        """`saver(path, results)` has written a file of the job. Raises ResultError when it is there already."""
        save_job_file(self.folder, self.job(id).id, filename, saver, results, override=override)

    def get_results(self, id: int, filename: str, loader: Loader) -> Any:  # noqa: A002 - the name is a contract
        """The value that `save_results` saved. Raises ResultError when it is not there."""
        return load_job_file(self.folder, self.job(id).id, filename, loader)

    def are_all_results_present(self, filename: str) -> bool:
        """Whether every job that may run (every job, before a pass filter was saved) has saved that file."""
        ids = self.get_filtered_ids() if has_selection(self.folder) else self.get_all_ids()
        return have_job_file(self.folder, ids, filename)

    json_saver, json_loader = staticmethod(json_saver), staticmethod(json_loader)
    numpy_saver, numpy_loader = staticmethod(numpy_saver), staticmethod(numpy_loader)
    torch_saver, torch_loader = staticmethod(torch_saver), staticmethod(torch_loader)

    # -- how the jobs stand ------------------------------------------------------------------------------------------

    def states(self) -> "StateTable":
        """The states of all attempts; those whose process is gone have become LOST, SLURM is asked about its own."""
        from experiment_manager.scheduler.reconcile import reconciled

        return reconciled(self.folder)

    def snapshot(self) -> "StateTable":
        """The old name of `states`."""
        return self.states()

    def status(
        self, *, wait: bool = False, by: Sequence[str] = (), every: bool = False, most_running: int | None = None
    ) -> "Status":
        """How many jobs are in which state, how those that run are getting on, and which ones need attention:
        `experiment-manager status`.

        `wait`: only when no job waits in a queue or runs any more. States are counted for each value of the variables
        in `by`. `live` has a row for each job that runs (the first `most_running` of them), or for `every` job. Raises
        ExperimentManagerError for an unknown variable.
        """
        from experiment_manager.analysis.status import live_status

        table = self._states_when_idle() if wait else self.states()
        return live_status(self.folder, self._drafts, table, by=listed(by), every=every, most_running=most_running)

    def _states_when_idle(self) -> "StateTable":
        from experiment_manager.scheduler.healing import is_under_way
        from experiment_manager.scheduler.reconcile import wait_until_idle

        return wait_until_idle(self.folder, lambda table: is_under_way(self.folder, table))

    def counts(self, answer: "Answer | None" = None) -> "Counts":
        """How many jobs are in which state, and nothing else, as `experiment-manager list` tells it.

        SLURM is not asked again about what it has been asked for the `answer`.
        """
        from collections import Counter

        from experiment_manager.model.records import Counts, State
        from experiment_manager.scheduler.reconcile import reconciled

        table = reconciled(self.folder, answer)
        found = Counter(map(table.state, self.get_all_ids()))
        return Counts({state: found[state] for state in State if found[state]})

    def jobs(self, where: Any = None) -> "Rows[JobRow]":
        """One row per job that passes: `experiment-manager jobs`.

        `job`, `state`, `attempt` (0: none yet), `selected` (whether it may run), `variables`.
        """
        from experiment_manager.analysis.jobs import job_rows
        from experiment_manager.model.rows import Rows

        table = cache(self.states)  # listed once, for the filter and the rows
        return Rows(job_rows(self.folder, self._select(where, table).jobs, table()))

    def show(self, job_id: int, *, resolve: bool = False) -> "JobDetails":
        """Everything about one job: `experiment-manager show`. With `resolve` its configuration has the values that
        interpolations stand for, as far as they can be told here. Raises UnknownJob."""
        from experiment_manager.analysis.jobs import show

        configuration = self.configuration(job_id)
        if resolve and configuration is not None:
            configuration = self._drafts.resolved(job_id)
        return show(self.folder, self.job(job_id), configuration, self.states())

    def diff(self, one: int, other: int) -> "JobDifference":
        """Two jobs side by side: `experiment-manager diff`. Raises UnknownJob."""
        from experiment_manager.analysis.jobs import difference

        return difference(self.folder, self.job(one).id, self.job(other).id, self.states())

    def add_trials(self, count: int) -> int:
        """The search of this experiment has so many trials more, and goes on where it was stopped; returns how many it
        has: `experiment-manager search --more`. Raises JobRefused where there is no search, OptionsError for none."""
        from experiment_manager.execution.search import add_trials

        return add_trials(self.folder, count)

    def stop_search(self) -> bool:
        """Nothing more is proposed, and what runs goes on; false where that was so before: `experiment-manager search
        --stop`. Raises JobRefused where there is no search."""
        from experiment_manager.execution.search import stop_search

        return stop_search(self.folder)

    def study(self) -> "optuna.Study":
        """The search of this experiment as an Optuna study in memory, as it is now, for `optuna.visualization` and for
        notebooks: the user attribute `job` of a trial is the id of its job. Raises JobRefused where there is no search,
        OptionsError without an Optuna of 4.9 or newer."""
        from experiment_manager.execution.study import study_of

        return study_of(self.folder, self.states())

    # -- what the jobs have left -------------------------------------------------------------------------------------

    def result_rows(self, where: Any = None, *, pruned: bool = False) -> "Rows[ResultRow]":
        """One row per job that passes, with its result and its last metrics: `experiment-manager results`.

        `job`, `state`, `attempt`, `variables`; `result` and `metrics`, each a mapping of names to values; `refused`,
        which maps the fields of the result that could not be stored to the reasons. `of_attempt` is
        there where both are of an earlier attempt than the last, as of a job that was run again and failed. Those that
        are PRUNED are left out, and a line on standard error says how many, unless `pruned` asks for them.
        """
        from experiment_manager.analysis.results import result_rows, without_pruned
        from experiment_manager.model.rows import Rows

        table = cache(self.states)  # listed once, for the filter and the rows
        rows = Rows(result_rows(self.folder, self._select(where, table).jobs, table()))
        if pruned:
            return rows
        left, line = without_pruned(rows)
        if line is not None:
            tell(f"{line}; ask for them with --pruned, in Python pruned=True")
        return Rows(left)

    def results(self, where: Any = None, *, pruned: bool = False) -> "pandas.DataFrame":
        """One row per job: `job`, `state`, `attempt`, the variables, the fields of its result, its last metrics, and as
        `refused`, if there is any, what of the result could not be stored; with PRUNED ones only where asked for them.

        A column has values of one kind. It is called by the name alone, as `loss`, unless any of these jobs has the
        name before, as one that returned it; then the column is `metrics.loss`. Whether it is depends on the jobs that
        `where` chooses; `result_rows` has `row["metrics"]["loss"]` for any of them.

        Raises ExperimentManagerError where pandas is not installed.
        """
        from experiment_manager.analysis.tables import flat_results, results_frame

        rows = flat_results(self.result_rows(where, pruned=pruned))
        return results_frame(rows, () if rows else self.result_columns())

    def result_columns(self, *, full: bool = False) -> list[str]:
        """The columns of `results`, as far as the first jobs that have run tell them, for where no row does; `full`:
        those alone that have full names, as `metrics.loss`, by these."""
        from experiment_manager.analysis.results import result_rows
        from experiment_manager.analysis.tables import columns_of, flat_results, result_names

        table = self.states()
        begun = [job for job in self.iter_jobs() if table.last(job.id).number][:_MOST_ASKED]
        jobs = begun or list(self.iter_jobs())[:1]
        rows = list(result_rows(self.folder, jobs, table))
        return list(result_names(rows)) if full else columns_of(flat_results(rows))

    def result_warnings(self, ids: Sequence[int]) -> list[str]:
        """A line for each thing that people should know of the results of these jobs: what could not be stored, and
        what is NaN."""
        from experiment_manager.analysis.results import result_warnings, sentences

        ids = list(map(one_id, ids))
        return sentences(result_warnings(self.folder, ids, self.states())) if ids else []

    def metrics(self, where: Any = None) -> "pandas.DataFrame":
        """One row per logged value: `job`, the variables, `attempt`, `step`, `time` (seconds since the epoch),
        `metric`, `value`; jobs that run are in it. Long, as seaborn takes it.

        Raises ExperimentManagerError where pandas is not installed.
        """
        from experiment_manager.analysis.tables import metrics_frame

        table = cache(self.states)
        return metrics_frame(self.folder, self._select(where, table).jobs, table(), self.variables)

    def compare(
        self,
        *others: "Experiment",
        by: Sequence[str] | None = None,
        over: Sequence[str] | None = None,
        tasks: Sequence[str] = (),
        metric: str | None = None,
        goal: str | None = None,
        normalize: str = "none",
        common: bool = False,
        where: Any = None,
        curves: bool = False,
    ) -> "Comparison":
        """Which method is better, by how much, and whether chance could have done it: `experiment-manager compare`.

        A method is what jobs have in common in the variables `by`, by default in all that vary and are not named
        otherwise; with `others`, in the experiment that they are of, too. `over` are the variables that only repeat a
        job, by default those called seed, and `tasks` those whose values are tasks that every run has a score on. Keys
        of configurations can be named, too, as `cfg.batch_size`. `metric` is a field of the results or a last metric,
        which `result.NAME` and `metrics.NAME` tell apart where both are called so, by default that of the search or of
        the pruner, else the first number there is, and its `goal` max or min, by default as these say, else max.
        `normalize="range"` puts the scores of each task between 0 and 1. With `common`, runs that some method lacks are
        left out; otherwise they are refused, as is what has not completed. With `curves`, a method has its
        interquartile mean by step, over all tasks, where its jobs have logged the metric.

        Intervals are percentiles of a stratified bootstrap, of 95 %. Raises ExperimentManagerError for what cannot be
        compared, and where NumPy is not installed.
        """
        from experiment_manager.analysis.comparison import compare

        rows, wanted = self._compared(
            others,
            by=by,
            over=over,
            tasks=tasks,
            metric=metric,
            goal=goal,
            normalize=normalize,
            common=common,
            where=where,
        )
        return compare(rows, wanted, self._logged(others) if curves else None)

    def _compared(
        self,
        others: Sequence["Experiment"],
        *,
        goal: str | None = None,
        common: bool = False,
        where: Any = None,
        **how: Any,
    ) -> "tuple[dict[str, list[ResultRow]], How]":
        """The rows that are compared, by experiment, and how; the arguments are those of `compare`."""
        from experiment_manager.analysis.alike import counted_once, mixing
        from experiment_manager.analysis.named_keys import with_keys
        from experiment_manager.analysis.results import known_objective
        from experiment_manager.analysis.scores import How

        chosen = how | {name: listed(names) for name in _LISTS if (names := how.get(name)) is not None}
        named = [name for names in _LISTS for name in chosen.get(names) or ()]
        once: dict[str, list[ResultRow]] = {}
        experiments, notes = _by_name([self, *others]), list[str]()
        for name, one in experiments.items():
            once[name], note = counted_once(one.folder, one.result_rows(where, pruned=True))
            once[name] = with_keys(one.folder, once[name], named, are_several=bool(others))
            notes += [] if note is None else [f"{name}: {note}" if others else note]
        known = known_objective(self.folder)
        found = How(goal=goal, is_common=common, notes=notes, **chosen)
        found = found._replace(mixing=lambda name, groups: mixing(experiments.get(name, self).folder, groups))
        return once, found._replace(goals=known.goals, averaged=known.averaged, of_last=known.note)

    def _logged(self, others: Sequence["Experiment"]) -> "Logged":
        """Reads what jobs of this experiment, or of others, too, have logged."""
        from experiment_manager.analysis.series import logged_series

        experiments = _by_name([self, *others]) if others else {}
        tables = {one.folder.path: cache(one.states) for one in (self, *others)}

        def series(experiment: str, job_id: int, metric: str) -> "Series | None":
            one = experiments.get(experiment, self)
            return logged_series(one.folder, tables[one.folder.path](), job_id).get(metric)

        def logged(method: "Scored", metric: str) -> "list[list[Series | None]]":
            places = (zip(*of_run, strict=True) for of_run in zip(method.experiments, method.jobs, strict=True))
            return [[series(experiment, job, metric) for experiment, job in of_run] for of_run in places]

        return logged

    def plot(
        self, kind: str, path: str | os.PathLike[str], *others: "Experiment", x: str | None = None, **how: Any
    ) -> str:
        """A figure of a comparison is in a file, `.pdf`, `.svg` or `.png`; returns its path: `experiment-manager plot`.

        `kind` is `intervals` (the aggregates of each method), `profile` (the share of runs above each score), `curves`
        (the interquartile mean of the metric by step, as far as all runs of a method have logged it: of several tasks
        over all, and on each) or `sensitivity` (by the values of the variable `x`). `how` are the options of `compare`.
        What to be careful about is told on standard error. Raises ExperimentManagerError for what cannot be drawn or
        compared, and where Matplotlib is not installed.
        """
        from experiment_manager.analysis.scores import score_table
        from experiment_manager.report.figures import check, draw

        whole = os.path.abspath(path)
        check(kind, whole, x, self.variables)
        found = score_table(*self._compared(others, **how))
        draw(kind, found, whole, logged=self._logged(others), x=x)
        for note in found.notes:
            tell(note)
        return whole

    def efficiency(self, where: Any = None, *, by: Sequence[str] = ()) -> "Efficiency":
        """What the jobs that pass asked for and used of memory, processors and time, and what was wasted, in all or for
        each combination of the variables in `by`: `experiment-manager efficiency`.

        `groups[0].settings` are the options that would have been enough. Raises ExperimentManagerError for an unknown
        variable.
        """
        from experiment_manager.analysis.efficiency import efficiency

        table = cache(self.states)
        return efficiency(self.folder, self._select(where, table).jobs, table(), listed(by), self.variables)

    def missing_ids(self, where: Any = None) -> list[int]:
        """The jobs without a result, which are those that are not done, COMPLETED or PRUNED, of those that may run (all
        of them, before a pass filter was saved) and pass."""
        table = cache(self.states)
        may_run = [self.get_filtered_ids()] if has_selection(self.folder) else []
        jobs = self._select([*may_run, *([] if where is None else [where])] or None, table).jobs
        return [int(job.id) for job in jobs if table().done(job.id) is None]

    def log_paths(self, job_id: int, attempt: int | None = None, *, stderr: bool = False) -> list[str]:
        """The logs of an attempt, by default of the last one: one file, or one for each rank.

        Raises UnknownJob; ResultError when there is no such attempt, or no log.
        """
        from experiment_manager.analysis import logs

        return logs.log_paths(self.folder, self.job(job_id).id, attempt, kind=_kind(stderr))

    def log(self, job_id: int, attempt: int | None = None, *, stderr: bool = False) -> Iterator[bytes]:
        """Yields what an attempt has printed, in pieces; see `log_paths`."""
        from experiment_manager.analysis import logs

        for path in self.log_paths(job_id, attempt, stderr=stderr):
            yield from logs.read(path)

    def follow_log(self, job_id: int, *, stderr: bool = False) -> Iterator[bytes]:
        """Yields what a job prints, as it comes, through all its attempts, until it has ended. Raises UnknownJob."""
        return (piece for _, piece in self._follow(job_id, (_kind(stderr),)))

    def output(self, job_id: int, attempt: int | None = None, *, follow: bool = False) -> Iterator[tuple[str, bytes]]:
        """The output of a job on both streams: `stdout` or `stderr`, and a piece of it: `experiment-manager logs`.

        Of the last attempt by default; with `follow` as it comes, until the job has ended. Raises UnknownJob;
        ResultError when there is no such attempt.
        """
        from experiment_manager.analysis import logs

        if follow:
            return self._follow(job_id, logs.STREAMS)
        return logs.printed(self.folder, self.job(job_id).id, attempt)

    def _follow(self, job_id: int, kinds: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        from experiment_manager.analysis import logs

        job = self.job(job_id)
        return logs.followed_streams(self.folder, job.id, kinds, lambda: self.states().state(job.id))

    def report(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        where: Any = None,
        average_over: Sequence[str] | None = None,
        group_by: Sequence[str] | None = None,
        metric: str | None = None,
        goal: str | None = None,
        tasks: Sequence[str] = (),
    ) -> str:
        """One HTML file tells everything about the experiment; returns its path: `experiment-manager report`.

        It is `report.html` in the experiment's folder, unless `path` says otherwise. `average_over` are the variables
        that only repeat a job (by default those called seed), and `group_by` those that make a group (by default all
        others). `metric` decides which group is best, as its `goal`, max or min, says: a field of the results or a
        metric, as in `compare`, by default that of the search or of the pruner, else the first number there is; the
        goal as these say, else max, which is told on standard error. Groups are compared, where something repeats their
        jobs, on the values of the variables in `tasks`. With `where` only jobs that pass this filter are in it. Raises
        ExperimentManagerError for unknown names, and without the extra `report`; FilterError when no job passes.
        """
        from experiment_manager.model import filters
        from experiment_manager.report.page import write_report

        table, only = self.states(), ""
        jobs, dropped = self._select(where, lambda: table, is_none_told=False)
        if where is not None:
            everything = list(self.iter_jobs())
            filters.require_some(jobs, dropped, everything, self.folder.path)
            rules, n_all = " and ".join(step.rule for step in dropped), len(everything)
            only = f"of {len(jobs):,} of the {n_all:,} {noun(n_all)}, {rules}"
        return write_report(
            self.folder, jobs, table, path,
            average_over=None if average_over is None else listed(average_over),
            group_by=None if group_by is None else listed(group_by),
            metric=metric, goal=goal, tasks=listed(tasks), only=only,
        )  # fmt: skip

    # -- housekeeping ------------------------------------------------------------------------------------------------

    def move(self, to: str | os.PathLike[str]) -> str:
        """The experiment lies at `to`, or in it where that is a folder, and nowhere else; returns its path:
        `experiment-manager move`.

        On the same file system it is renamed, otherwise copied, compared, and then removed; interrupted at any point,
        the same call goes on. Raises JobRefused while a job of it runs or waits, FolderError where it cannot go there.
        """
        from experiment_manager.scheduler.moving import move  # programs that run a job import this module, too

        self.folder = move(self.folder, os.fspath(to))
        self._drafts.go_along(self.folder)
        return self.folder.path

    def doctor(self) -> "list[Finding]":
        """What is odd about the experiment, each with what to do about it; empty: nothing is. It only reads:
        `experiment-manager doctor`."""
        from experiment_manager.analysis.doctor import examine

        return examine(self.folder)

    def disk_usage(self) -> int:
        """The bytes that the experiment takes on the disk, as `du` counts them: what links lead to is not among them.
        Reads the whole folder: `experiment-manager list --du`."""
        return space_below(self.folder.path, _skip)[1]

    def tag(self, *tags: str, where: Any = None, remove: bool = False) -> list[int]:
        """The jobs that pass, or with None the experiment itself, have these tags, or with `remove` have them not;
        returns the ids of the jobs: `experiment-manager tag`.

        A tag is a word that begins with a letter; filters ask for it as `tag:baseline`. Raises OptionsError for a word
        that cannot be one, FilterError.
        """
        from experiment_manager.store.tags import set_tags

        self.folder.require()
        ids = None if where is None else [int(job.id) for job in self._select(where, cache(self.states)).jobs]
        set_tags(self.folder, tags, ids, are_there=not remove)
        return ids or []

    def tags(self, job_id: int | None = None) -> list[str]:
        """The tags of a job, or of the experiment itself. Raises UnknownJob."""
        from experiment_manager.store.tags import read_tags

        found = read_tags(self.folder)
        return list(found.own if job_id is None else found.of(self.job(job_id).id))

    def note(self, text: str | None = None, *, job_id: int | None = None, remove: bool = False) -> str | None:
        """What people have written about a job, or about the experiment itself, with `text` below it, or with `remove`
        in its place; None: nothing: `experiment-manager note`. Raises UnknownJob."""
        from experiment_manager.store.tags import add_note, read_note, remove_note

        self.folder.require()
        job = None if job_id is None else int(self.job(job_id).id)
        if remove:
            remove_note(self.folder, job)
        if text is not None and text.strip():
            add_note(self.folder, text, job)
        return read_note(self.folder, job)

    def clean(
        self,
        where: Any = None,
        *,
        state: str | None = None,
        checkpoints: Sequence[str] = (),
        kinds: Sequence[str] | None = None,
        dry_run: bool = False,
    ) -> "Cleaning":
        """What nothing reads any more is gone, or with `dry_run` only told of: `experiment-manager clean`.

        Logs, results and metrics of attempts before the last, and what any left half written; copies of the code that
        no job runs from; scripts and orders of launches that have ended; a report that is out of date; and of jobs that
        are done the files that fit a pattern of `checkpoints`. `kinds` chooses among those. With `where`, or a `state`
        (`failed,timeout`), it is about these jobs alone; nothing of one that runs or waits is removed, and no link is
        followed. Raises OptionsError, FilterError, JobRefused.
        """
        from experiment_manager.analysis.cleaning import What, clean, plan_cleaning
        from experiment_manager.model import filters

        states = None if state is None else filters.parse_states(state)
        kinds = None if kinds is None else listed(kinds)
        what = What.checked(kinds, listed(checkpoints), states, is_of_jobs=where is not None)
        table = self.states()
        jobs = self._select(where, lambda: table).jobs
        if dry_run:
            return plan_cleaning(self.folder, jobs, table, what)
        return clean(self.folder, jobs, what)

    # -- handing it on -----------------------------------------------------------------------------------------------

    def export(
        self,
        to: str,
        place: str | os.PathLike[str] | None = None,
        *,
        project: str | None = None,
        where: Any = None,
    ) -> "Exported":
        """The last attempts of the jobs that pass, as far as they have ended, are runs of a program that tracks
        experiments, each of them once, however often this is called, or was killed: `experiment-manager export`.

        `to` is `tensorboard`, `wandb` (offline), `mlflow` or `trackio`. `place` is a folder, for MLflow a database or
        an address; otherwise where that program keeps runs anyhow, for TensorBoard `runs`. `project` is what groups
        runs there, by default the name of this experiment. What a run cannot hold there is said on standard error.
        Raises ExperimentManagerError when no job has ended, the library is missing, `place` has runs of another
        experiment of this name, or the program refuses something: then what was exported stays.
        """
        from experiment_manager.analysis.export.exporting import export

        table = self.states()
        jobs = self._select(where, lambda: table).jobs
        where_to = None if place is None else os.fspath(place)
        return export(self.folder, jobs, table, self._drafts.resolved, to=to, place=where_to, project=project)

    def archive(
        self,
        path: str | None = None,
        *,
        logs: bool = False,
        everything: bool = False,
        ro_crate: bool = False,
        license: str | None = None,  # noqa: A002 - as RO-Crates call it
    ) -> str:
        """The experiment is in one file, by default `<its name>.tar.gz` here; returns its absolute path.

        With `logs` what jobs have printed is in it, with `everything` all of their files, checkpoints among them;
        with `ro_crate` it is an RO-Crate, for repositories of research data, under a `license`, best an address. Raises
        FolderError when the file is there already; ExperimentManagerError without the library rocrate.
        """
        from experiment_manager.analysis.archive import archive

        whole = os.path.abspath(path or f"{self.folder.name}.tar.gz")
        kept = {"logs": logs, "everything": everything, "is_crate": ro_crate}
        archive(self.folder, whole, self.states(), **kept, license_=license)
        return whole


def _kind(stderr: bool) -> str:
    return "stderr" if stderr else "stdout"


def _by_name(experiments: Sequence[Experiment]) -> dict[str, Experiment]:
    """Experiments by their names, or by their folders where names are the same. Raises ExperimentManagerError for one
    that is there twice."""
    names = [experiment.experiment_name for experiment in experiments]
    if len(set(names)) < len(names):
        names = [experiment.folder.path for experiment in experiments]
    if len(set(names)) < len(names):
        raise ExperimentManagerError(f"{names[0]} is named twice; an experiment is compared with others")
    return dict(zip(names, experiments, strict=True))


def find_experiments(path: str | os.PathLike[str]) -> list[Experiment]:
    """All experiments below a folder, by path: `experiment-manager list`. Links are followed, as to a scratch disk,
    unless another user than root has made one to what is neither that user's nor ours, or it leads back up.

    One that is damaged, and a link that is not followed, is named on standard error and left out.
    """
    found, seen, waiting = list[Experiment](), set[str](), [os.path.abspath(path)]
    start = os.path.realpath(path)
    while waiting:
        place = waiting.pop()
        if (real := os.path.realpath(place)) in seen:
            continue
        seen.add(real)
        try:
            entries = entries_in(place)
        except OSError as error:
            _skip(error)
            continue
        if any(entry.name == MANIFEST for entry in entries):
            found += _opened(place)
        else:
            inside = [entry.path for entry in entries if entry.name[0] != "." and _is_looked_into(entry, start)]
            waiting += reversed(inside)
    return found


def _opened(place: str) -> Iterator[Experiment]:
    try:
        yield Experiment.at(place)
    except ExperimentManagerError as error:
        skipped(str(error))
    except Exception as error:
        skipped(f"{place}: {described(error)}")


def _is_looked_into(entry: os.DirEntry[str], start: str) -> bool:
    """Whether experiments are looked for in what lies below `start`, if it is a folder: nobody is led through the
    machine by links of others."""
    path = entry.path
    try:
        if entry.is_dir(follow_symlinks=False):
            return True
        if not entry.is_symlink() or not is_folder(path):
            return False
        owner, maker = looked(lambda: (os.stat(path).st_uid, os.lstat(path).st_uid))
    except OSError as error:
        _skip(error)
        return False
    except FolderError as error:
        skipped(str(error))
        return False
    is_trusted = maker in (0, os.geteuid(), owner) or owner == os.geteuid() != 0  # root owns most of the machine
    if not is_trusted:
        skipped(f"{path} is a link of another user's to what is neither theirs nor yours; name that folder itself")
    elif is_above := bool(below(os.path.realpath(path), start)):
        skipped(f"{path} is a link to a folder in which {start} itself lies")
    return is_trusted and not is_above


def _skip(error: OSError) -> None:
    skipped(unreadable(error.filename, error))


def disk_usages(experiments: Sequence[Experiment]) -> list[int]:
    """The bytes that each experiment takes on the disk, several being read at once."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        found = pool.map(Experiment.disk_usage, experiments)
        return list(followed(found, len(experiments), "adding up"))


def counts_of(experiments: Sequence[Experiment]) -> "Iterator[tuple[Experiment, Counts]]":
    """How many jobs of each experiment are in which state, with SLURM asked once about all of them.

    One whose states cannot be read is named on standard error and left out.
    """
    from experiment_manager.scheduler.query import ask_about

    answer = ask_about([experiment.folder for experiment in experiments])
    for experiment in followed(experiments, len(experiments), "counting"):
        try:
            yield experiment, experiment.counts(answer)
        except ExperimentManagerError as error:
            skipped(str(error))
        except Exception as error:  # what nobody has thought of is named, and the other experiments are told of
            skipped(f"{experiment.folder.path}: {described(error)}")
