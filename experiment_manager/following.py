"""Following an experiment in Python: states, logs, results, and what tells one job from another."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from experiment_manager.analysis import dataframes, logs, views
from experiment_manager.analysis.archive import archive
from experiment_manager.analysis.difference import difference
from experiment_manager.analysis.live import live_rows
from experiment_manager.analysis.result_warnings import result_warnings, sentences
from experiment_manager.analysis.rows import columns_of, flat_results, state_counts
from experiment_manager.definition import Definition
from experiment_manager.model import filters
from experiment_manager.model.records import Counts, State
from experiment_manager.report.page import write_report
from experiment_manager.scheduler.asking import Answer
from experiment_manager.scheduler.reconcile import reconciled
from experiment_manager.scheduler.wait import wait_until_idle
from experiment_manager.store.pass_filter import has_selection

if TYPE_CHECKING:
    import pandas


_MOST_ASKED = 1000


class Following(Definition):
    """What becomes of an experiment. See `Experiment`."""

    def status(
        self, *, wait: bool = False, by: Sequence[str] = (), every: bool = False, most_running: int | None = None
    ) -> views.Status:
        """How many jobs are in which state, how those that run are getting on, and which ones need attention:
        `experiment-manager status`.

        `wait`: only when no job waits in a queue or runs any more. States are counted for each value of the variables
        in `by`. `live` has a row for each job that runs (the first `most_running` of them), or for `every` job.
        """
        snapshot = wait_until_idle(self.folder) if wait else self.snapshot()
        everything = list(self.iter_jobs()) if every or by else []
        ids = [job.id for job in everything] or self.get_all_ids()
        found = views.status(self.folder, ids, snapshot)
        jobs = everything if every else self.jobs_of(found.ids.get(State.RUNNING, ())[:most_running])
        rows = views.job_rows(self.folder, everything, snapshot) if by else []
        return found._replace(
            live=tuple(live_rows(self.folder, jobs, snapshot)), groups=tuple(state_counts(rows, by) if by else ())
        )

    def result_warnings(self, ids: Sequence[int]) -> list[str]:
        """What is to be said of the results of these jobs: what could not be stored, what is NaN. A line for each."""
        return sentences(result_warnings(self.folder, ids, self.snapshot())) if ids else []

    def counts(self, answer: Answer | None = None) -> Counts:
        """How many jobs are in which state, and nothing else, as `experiment-manager list` tells it.

        SLURM is not asked again about what it has been asked for the `answer`.
        """
        snapshot = reconciled(self.folder, answer)
        found = Counter(map(snapshot.state, self.get_all_ids()))
        return Counts({state: found[state] for state in State if found[state]})

    def jobs(self, where: Any = None) -> list[dict[str, Any]]:
        """One row per job: id, state, attempt, whether it may run, variables: `experiment-manager jobs`."""
        snapshot = cache(self.snapshot)  # listed once, for the filter and the rows
        return views.job_rows(self.folder, self._select(where, snapshot).jobs, snapshot())

    def result_rows(self, where: Any = None) -> list[dict[str, Any]]:
        """One row per job with its result and its last metrics: `experiment-manager results`."""
        snapshot = cache(self.snapshot)  # listed once, for the filter and the rows
        return views.result_rows(self.folder, self._select(where, snapshot).jobs, snapshot())

    def show(self, job_id: int, *, resolve: bool = False) -> dict[str, Any]:
        """Everything about one job: `experiment-manager show`. With `resolve` its configuration has the values that
        interpolations stand for, as far as they can be told here."""
        configuration = self.configuration(job_id)
        if resolve and configuration is not None:
            configuration = self._resolved(job_id)
        return views.show(self.folder, self.job(job_id), configuration, self.snapshot())

    def results(self, where: Any = None) -> "pandas.DataFrame":
        """One row per job: `job`, `state`, `attempt`, the variables, the fields of its result, its last metrics, and as
        `refused`, if there is any, what of the result could not be stored.

        Raises ExperimentManagerError where pandas is not installed.
        """
        rows = flat_results(self.result_rows(where))
        return dataframes.results_frame(rows, () if rows else self.result_columns())

    def result_columns(self) -> list[str]:
        """The columns of `results`, as far as the first jobs that have run tell them, for where no row does."""
        snapshot = self.snapshot()
        begun = [job for job in self.iter_jobs() if snapshot.last(job.id).number][:_MOST_ASKED]
        jobs = begun or list(self.iter_jobs())[:1]
        return columns_of(flat_results(views.result_rows(self.folder, jobs, snapshot)))

    def metrics(self, where: Any = None) -> "pandas.DataFrame":
        """One row per logged value: `job`, the variables, `attempt`, `step`, `time`, `metric`, `value`; jobs that run
        are in it. Long, as seaborn takes it. Raises ExperimentManagerError where pandas is not installed.
        """
        snapshot = cache(self.snapshot)
        return dataframes.metrics_frame(self.folder, self._select(where, snapshot).jobs, snapshot(), self.variables)

    def missing_ids(self, where: Any = None) -> list[int]:
        """The jobs without a result, which are those that have not completed; of those that may run, by default."""
        snapshot = cache(self.snapshot)
        if where is None and has_selection(self.folder):
            where = [self.get_filtered_ids()]
        jobs = self._select(where, snapshot).jobs
        return [int(job.id) for job in jobs if snapshot().completed(job.id) is None]

    def log_paths(self, job_id: int, attempt: int | None = None, *, stderr: bool = False) -> list[str]:
        """The logs of an attempt, by default of the last one: one file, or one for each rank.

        Raises UnknownJob; ResultError when there is no such attempt, or no log.
        """
        return logs.log_paths(self.folder, self.job(job_id).id, attempt, kind=_kind(stderr))

    def log(self, job_id: int, attempt: int | None = None, *, stderr: bool = False) -> Iterator[bytes]:
        """What an attempt has printed, in pieces; see `log_paths`."""
        for path in self.log_paths(job_id, attempt, stderr=stderr):
            yield from logs.read(path)

    def follow_log(self, job_id: int, *, stderr: bool = False) -> Iterator[bytes]:
        """What a job prints, as it comes, through all its attempts, until it has ended. Raises UnknownJob."""
        return (piece for _, piece in self._follow(job_id, (_kind(stderr),)))

    def output(self, job_id: int, attempt: int | None = None, *, follow: bool = False) -> Iterator[tuple[str, bytes]]:
        """What a job has printed on both streams: `stdout` or `stderr`, and a piece of it: `experiment-manager logs`.

        Of the last attempt by default; with `follow` as it comes, until the job has ended. Raises UnknownJob;
        ResultError when there is no such attempt.
        """
        if follow:
            return self._follow(job_id, logs.STREAMS)
        return logs.printed(self.folder, self.job(job_id).id, attempt)

    def _follow(self, job_id: int, kinds: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        job = self.job(job_id)
        return logs.followed_streams(self.folder, job.id, kinds, lambda: self.snapshot().state(job.id))

    def report(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        where: Any = None,
        average_over: Sequence[str] | None = None,
        group_by: Sequence[str] | None = None,
        metric: str | None = None,
        goal: str = "max",
    ) -> str:
        """One HTML file tells everything about the experiment; returns its path: `experiment-manager report`.

        It is `report.html` in the experiment's folder, unless `path` says otherwise. `average_over` are the variables
        that only repeat a job (by default those called seed), and `group_by` those that make a group (by default all
        others). `metric` decides which group is best, as its `goal`, max or min, says: a field of the results or a
        metric, by default the first number there is. With `where` it is about the jobs that pass this filter. Raises
        ExperimentManagerError for unknown names, and without the extra `report`; FilterError when no job passes.
        """
        snapshot, only = self.snapshot(), ""
        jobs, dropped = self._select(where, lambda: snapshot)
        if where is not None:
            everything = list(self.iter_jobs())
            filters.require_some(jobs, dropped, everything, self.folder.path)
            only = f"of {len(jobs):,} of the {len(everything):,} jobs, {' and '.join(step.rule for step in dropped)}"
        return write_report(
            self.folder, jobs, snapshot, path,
            average_over=average_over, group_by=group_by, metric=metric, goal=goal, only=only,
        )  # fmt: skip

    def archive(self, path: str | None = None, *, logs: bool = False, everything: bool = False) -> str:
        """The experiment is in one file, by default `<its name>.tar.gz` here; returns its absolute path.

        With `logs` what jobs have printed is in it, with `everything` all of their files, checkpoints among them.
        Raises FolderError when the file is there already.
        """
        whole = os.path.abspath(path or f"{self.folder.name}.tar.gz")
        archive(self.folder, whole, self.snapshot(), logs=logs, everything=everything)
        return whole

    def diff(self, one: int, other: int) -> dict[str, Any]:
        """Two jobs side by side: `experiment-manager diff`. Raises UnknownJob."""
        return difference(self.folder, self.job(one).id, self.job(other).id, self.snapshot())


def _kind(stderr: bool) -> str:
    return "stderr" if stderr else "stdout"
