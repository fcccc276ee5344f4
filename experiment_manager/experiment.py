"""`Experiment`: an experiment in Python. Define jobs, choose those that may run, run them, and read what they left."""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from experiment_manager.errors import JobRefused
from experiment_manager.execution.child import outside_filter
from experiment_manager.execution.fake_job import leave_result, print_job
from experiment_manager.execution.in_process import attempting, is_current
from experiment_manager.execution.resubmit import Resubmission, Resubmitted, carry_out, plan
from experiment_manager.following import Following
from experiment_manager.model.filters import Ids, parse, parse_states
from experiment_manager.scheduler import scripts
from experiment_manager.scheduler.cancel import cancel
from experiment_manager.scheduler.slurm.configuration import SLURM
from experiment_manager.scheduler.submit import Submitted, newest_launch, submit
from experiment_manager.store import kept_files, results
from experiment_manager.store.pass_filter import has_selection

Runner = Callable[[int, dict[str, Any], Any], Any]
"""`runner(job_id, variables, configuration)`; what it returns becomes the job's result."""


class Experiment(Following):
    """A named folder of jobs which differ in a few variables.

    `variables` are the names of what changes from job to job. The folder is `<abs_folder_path>/<experiment_name>`; it
    is written by `save()`. Where it is there already, jobs that it has keep their ids and new ones follow, so that the
    program which defines an experiment can be run again, also with a larger grid.

    Raises FolderError for a name that no folder can bear.
    """

    # -- running -----------------------------------------------------------------------------------------------------

    def run_id(self, job_id: int, runner: Runner) -> Any:
        """The job has run in this process: `runner(job_id, variables, configuration)`. Returns what it returned.

        The attempt, its result or its exception are recorded. `job_id` is the id of a job, never a position.
        Raises JobRefused for a job outside the pass filter, and when another attempt runs; Unwritten, which is an
        OSError, too, where the disk takes neither the result nor how the attempt ended.
        """
        job = self.job(job_id)
        if not is_current(self.folder, job_id) and job_id not in self.get_filtered_ids():
            raise JobRefused(outside_filter(job_id, self.folder))
        configuration = self.configuration(job_id)
        is_fake = getattr(runner, "__func__", runner) is Experiment.fake_runner
        with attempting(self.folder, job_id, is_fake=is_fake) as attempt:
            value = runner(job_id, dict(job.variables), configuration)
            attempt.leave(value)
        return value

    def fake_runner(self, job_id: int, variables: Mapping[str, Any], configuration: Any) -> None:
        """Prints the job instead of running it, and leaves its configuration as a result: `run_id(3, exp.fake_runner)`.

        The attempt ends as FAKE and not as COMPLETED, so the job is still run for real.
        """
        print_job(job_id, variables, configuration)
        leave_result(self.folder, job_id, configuration)

    # -- results -----------------------------------------------------------------------------------------------------

    def save_results(
        self,
        id: int,  # noqa: A002 - the name is a contract
        filename: str,
        saver: results.Saver,
        results: Any,
        override: bool = False,
    ) -> None:
        """`saver(path, results)` has written a file of the job. Raises ResultError when it is there already."""
        self.job(id)
        kept_files.save(self.folder, id, filename, saver, results, override=override)

    def get_results(self, id: int, filename: str, loader: results.Loader) -> Any:  # noqa: A002 - the name is a contract
        """What `save_results` saved. Raises ResultError when it is not there."""
        self.job(id)
        return kept_files.load(self.folder, id, filename, loader)

    def are_all_results_present(self, filename: str) -> bool:
        """Whether every job that may run (every job, before a pass filter was saved) has saved that file."""
        ids = self.get_filtered_ids() if has_selection(self.folder) else self.get_all_ids()
        return kept_files.are_all_present(self.folder, ids, filename)

    json_saver, json_loader = staticmethod(results.json_saver), staticmethod(results.json_loader)
    numpy_saver, numpy_loader = staticmethod(results.numpy_saver), staticmethod(results.numpy_loader)
    torch_saver, torch_loader = staticmethod(results.torch_saver), staticmethod(results.torch_loader)

    # -- SLURM -------------------------------------------------------------------------------------------------------

    def set_slurm_config(self, slurm: SLURM) -> None:
        """The options of SLURM jobs, which `save` writes beside the manifest."""
        self._slurm = slurm

    @property
    def slurm_config(self) -> SLURM | None:
        """The options of SLURM jobs, as they were set or saved; None when there are none. Raises OptionsError."""
        if self._slurm is None and os.path.exists(self.folder.slurm_config):
            self._slurm = SLURM.load(self.folder.slurm_config)
        return self._slurm

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
        return scripts.write(
            self.folder, self.slurm_config, runner=python_script, name=job_name, n_jobs=n_jobs, rerun=rerun,
            overrides=overrides or {},
        ).paths  # fmt: skip

    def submit(self, launch: str | None = None) -> list[Submitted]:
        """The scripts of the newest launch (or of that one) are submitted, each once, however often this is called.

        Raises SlurmError with `sbatch`'s own words; what was not submitted is not recorded.
        """
        return submit(self.folder, newest_launch(self.folder, launch))

    def cancel(self, where: Any = None) -> list[int]:
        """The jobs that wait or run, of those that pass a filter, were told to end; returns their ids."""
        snapshot = self.snapshot()
        return cancel(self.folder, [int(job.id) for job in self._select(where, lambda: snapshot).jobs], snapshot)

    # -- again -------------------------------------------------------------------------------------------------------

    def resubmit(self, where: Any = None, *, state: str | None = None, **options: Any) -> Resubmitted:
        """Jobs that ended badly run again, with the same ids and configurations: `plan_resubmission`, carried out."""
        return self.carry_out(self.plan_resubmission(where, state=state, **options))

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
    ) -> Resubmission:
        """Which jobs would run again and how; nothing is written: `experiment-manager resubmit` before its question.

        `ids` are ids and ranges, or a filter, as `where` is; `state` names states (`failed,timeout,oom`; by default all
        that are bad); `settings` change SLURM options of the last launch, whose launcher is used unless one is named.
        Raises JobRefused, OptionsError, FilterError.
        """
        snapshot = self.snapshot()
        ids = list(ids) if isinstance(ids, Iterator) else ids
        rules = [rule for rule in (ids, where) if rule is not None]
        return plan(
            self.folder,
            self._select(rules or None, lambda: snapshot).jobs,
            snapshot,
            states=None if state is None else parse_states(state),
            are_named=ids is not None and all(isinstance(rule, Ids) for rule in parse(ids)),
            launcher=launcher,
            settings=settings or {},
            slurm=self.slurm_config,
            runner=runner,
            n_jobs=n_jobs,
            gpus_per_job=gpus_per_job,
        )

    def carry_out(self, planned: Resubmission) -> Resubmitted:
        """The jobs run again, or wait for SLURM. Raises JobRefused when somebody has started one of them meanwhile."""
        return carry_out(self.folder, planned)
