"""The verbs for the days after a sweep: work, script, submit, cancel, resubmit, heal; logs, diff, archive."""

import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from experiment_manager.analysis.logs import marked
from experiment_manager.cli import completion, terminal
from experiment_manager.cli.jobs import of_search
from experiment_manager.cli.terminal import Folder, JobNumber, Json, Where
from experiment_manager.errors import JobRefused, OptionsError, ResultError
from experiment_manager.execution.pool import Interrupted
from experiment_manager.execution.resubmit import Resubmission, Resubmitted
from experiment_manager.execution.search import no_search
from experiment_manager.execution.work import Worked
from experiment_manager.experiment import Experiment
from experiment_manager.model.ids import format_ids, shortened
from experiment_manager.model.policy import REFUSED
from experiment_manager.model.records import ENDED_WELL, State
from experiment_manager.scheduler import schedulers
from experiment_manager.scheduler.healing import sentences
from experiment_manager.scheduler.scripts import how_to_submit
from experiment_manager.scheduler.submission import newest_launch, test_only
from experiment_manager.store.launches import planned_attempts
from experiment_manager.text import LogText, as_word, counted, noun, one_line, settings_text, size_text, tell


def register(app: typer.Typer) -> None:
    """The verbs are on the command line."""
    app.command(epilog="Example: experiment-manager work experiments/train --jobs 4 --until 18:00")(work)
    app.command(epilog="Example: experiment-manager search experiments/train --more 100")(search)
    example = "Example: experiment-manager script experiments/train --set partition=gpu timeout_min=600"
    app.command(epilog=example)(script)
    app.command(epilog="Example: experiment-manager submit experiments/train")(submit)
    app.command(epilog="Example: experiment-manager cancel experiments/train 0-3 --state QUEUED")(cancel)
    app.command(epilog="Example: experiment-manager logs experiments/train 7 -f")(logs)
    example = (
        "Example: experiment-manager resubmit experiments/train --state timeout,oom --set mem_gb=64 timeout_min=600"
    )
    app.command(epilog=example)(resubmit)
    app.command(epilog="Example, for cron: experiment-manager heal experiments/train")(heal)
    app.command(epilog="Example: experiment-manager diff experiments/train 3 7")(diff)
    app.command(epilog="Example: experiment-manager archive experiments/train --out train.tar.gz --logs")(archive)


def work(
    folder: Folder,
    jobs: Annotated[int, typer.Option(help="How many run at a time; -1: one for each processor.")] = 1,
    gpus_per_job: Annotated[
        float | None, typer.Option(help="Of the GPUs here: 1, 2, or 0.5: two jobs on each; otherwise an equal share.")
    ] = None,
    where: Where = None,
    max_jobs: Annotated[int | None, typer.Option(help="Run no more than so many.")] = None,
    until: Annotated[
        str | None, typer.Option(help="Begin no job that could not end by then: 18:00, or 2026-01-31T18:00.")
    ] = None,
    runner: Annotated[str | None, typer.Option(help="The script that runs jobs which were written in Python.")] = None,
    rerun: Annotated[str, typer.Option(help="Of the jobs that have ended: failed, never, always.")] = "failed",
    job_timeout_min: Annotated[float | None, typer.Option(help="How many minutes a job may run.")] = None,
    json: Json = False,
) -> None:
    """Run jobs that pass the filter here, one after the other, and several machines at once that see the folder.

    Each job runs once, whoever else works on the experiment; what waits in a queue of SLURM is left to SLURM. Exits
    with 0 when all jobs completed that it ran, else with 1.
    """
    experiment = Experiment.at(folder)
    with _stopped_by_signals():
        done = experiment.run(
            runner,
            where=where,
            n_jobs=jobs,
            gpus_per_job=gpus_per_job,
            max_jobs=max_jobs,
            until=until,
            rerun=rerun,
            job_timeout_min=job_timeout_min,
        )
    if json:
        ended = [{**ran._asdict(), "state": ran.state and str(ran.state)} for ran in done.ran]
        launch = done.launch and done.launch.number
        terminal.print_answer({"launch": launch, "jobs": ended, "left": list(done.left)})
    else:
        for line in _worked(experiment, done, rerun):
            terminal.say(line)
        for line in experiment.result_warnings([ran.job_id for ran in done.ran]):
            tell(line)
    if any(ran.state not in ENDED_WELL for ran in done.ran):
        raise typer.Exit(1)


def search(
    folder: Folder,
    more: Annotated[int | None, typer.Option(help="Add so many trials, and go on where it was stopped.")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Propose nothing more; what runs goes on.")] = False,
    json: Json = False,
) -> None:
    """Tell how a search stands; give it more trials, or stop it."""
    experiment, here = Experiment.at(folder), as_word(folder)
    if stop and more is not None:
        raise OptionsError("--more and --stop: a search goes on, or it does not; leave one of them out")
    if more is not None:
        experiment.add_trials(more)
    was_running = experiment.stop_search() if stop else False
    status = experiment.status()
    found = status.search
    if found is None:
        raise JobRefused(no_search(experiment.folder))
    if json:
        terminal.print_answer(found._asdict())
        return
    terminal.say(of_search(found, is_running=bool({State.RUNNING, State.QUEUED} & status.counts.keys())))
    if stop:
        before = "is stopped" if was_running else "had been stopped before"
        terminal.say(f"it {before}; the same sweep, or `experiment-manager search {here} --more 10`, lets it go on")


def script(
    folder: Folder,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="SLURM options that replace those there are: mem_gb=64 timeout_min=600.", show_default=False
        ),
    ] = None,
    runner: Annotated[str | None, typer.Option(help="The script that runs jobs which were written in Python.")] = None,
    job_name: Annotated[str | None, typer.Option(help="How the names of the SLURM jobs begin.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Only the first so many of those that are to run.")] = None,
    rerun: Annotated[str, typer.Option(help="Of the jobs that have ended: failed, never, always.")] = "failed",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One option: --set mem_gb=64; may be repeated.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the array scripts for the jobs that pass the filter and have not completed; submit nothing.

    The options are those saved in slurm_config.json, else those of the last launch by SLURM.
    """
    experiment = Experiment.at(folder)
    paths = experiment.generate_slurm_script(
        runner, job_name, jobs, rerun=rerun, overrides=settings_of([*(set_ or []), *(settings or [])])
    )
    if json:
        terminal.print_answer({"scripts": paths})
        return
    for path in paths:
        terminal.say(path)
    launch = newest_launch(experiment.folder)
    how = how_to_submit(experiment.folder, launch, paths)
    terminal.say(f"{how}  ({counted(len(planned_attempts(launch)))}; nothing is submitted yet)")


def settings_of(items: Sequence[str]) -> dict[str, Any]:
    """`mem_gb=64` as an option and its value, read as YAML reads it; `key=null` takes an option away."""
    import yaml

    found: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise OptionsError(f"{item!r} is no setting of an option; write mem_gb=64")
        if not text:
            raise OptionsError(f"{item!r} has no value; write {name}=null to take the option away")
        try:
            value = yaml.safe_load(text) if text[:1] in "[{" or text in ("null", "true", "false") else text
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            why = one_line(str(getattr(error, "problem", None) or error))
            raise OptionsError(
                f"{one_line(item)!r} has a value that is no YAML ({why}); write {name}=[a, b]"
            ) from error
        found[name] = value
    return found


def submit(
    folder: Folder,
    launch: Annotated[
        str | None,
        typer.Option(autocompletion=completion.launch, help="The launch to submit: 0003. Otherwise the newest."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Write scripts of so many workers first, for all jobs that are to run.")
    ] = None,
    test: Annotated[bool, typer.Option("--test-only", help="Ask SLURM what it would do, and submit nothing.")] = False,
    json: Json = False,
) -> None:
    """Submit the array scripts of the newest launch, all of them, each once: interrupted, type it again."""
    experiment = Experiment.at(folder)
    if test and workers is not None:
        raise OptionsError("--test-only asks about scripts that are there; write those of workers with `script` first")
    if test:
        chosen = newest_launch(experiment.folder, launch)
        answers, scheduler = test_only(experiment.folder, chosen), schedulers.of(chosen)
        if json:
            command = scheduler.submit_command if scheduler is not None else ""
            terminal.print_answer([{"script": path, command: words} for path, words in answers])
        for path, words in () if json else answers:
            terminal.say(f"{path}: {words}")
        return
    done = experiment.submit(launch, workers=workers)
    if json:
        terminal.print_answer([array._asdict() for array in done])
        return
    for array in done:
        edited = ", edited since it was written and submitted as it is" if array.is_edited else ""
        how = "submitted as" if array.is_new else "was submitted already, as"
        terminal.say(f"{array.script} {how} SLURM job {array.slurm_id}{edited}")


def cancel(
    folder: Folder,
    ids: Annotated[
        list[str] | None,
        typer.Argument(help="Ids and ranges: 0-3,7.", show_default=False, autocompletion=completion.jobs),
    ] = None,
    state: Annotated[
        str | None, typer.Option(help="Only jobs in these states: QUEUED,RUNNING.", autocompletion=completion.states)
    ] = None,
    where: Where = None,
    json: Json = False,
) -> None:
    """End jobs that wait or run: all of the experiment, or those that are named."""
    experiment = Experiment.at(folder)
    rules = terminal.rules_of(ids, where, state)
    cancelled = experiment.cancel(rules)
    if json:
        terminal.print_answer({"jobs": cancelled})
    elif cancelled:
        terminal.say(f"told {noun(len(cancelled))} {format_ids(cancelled)} of {experiment.folder.path} to end")
    else:
        named = terminal.that_you_named(rules)
        terminal.say(f"no job of {experiment.folder.path}{named} is known to wait or run; none was told to end")


def logs(
    folder: Folder,
    job: JobNumber,
    attempt: Annotated[int | None, typer.Option(help="Of this attempt; otherwise of the last one.")] = None,
    stdout: Annotated[bool, typer.Option("--stdout", help="Only what went to standard output, as it is.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Only what went to standard error, as it is.")] = False,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on until the job has ended, through all its attempts.")
    ] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Only the names of the files.")] = False,
) -> None:
    """Print what a job has printed, standard error below a line that says so; of several tasks rank by rank."""
    experiment = Experiment.at(folder)
    if paths:
        both = [False, True] if stdout == stderr else [stderr]
        for path in _paths(lambda is_stderr: experiment.log_paths(job, attempt, stderr=is_stderr), both):
            terminal.say(path)
        return
    if stdout == stderr:
        pieces = marked(experiment.output(job, attempt, follow=follow))
    elif follow:
        pieces = experiment.follow_log(job, stderr=stderr)
    else:
        pieces = experiment.log(job, attempt, stderr=stderr)
    try:
        _say_pieces(pieces, experiment, job)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


Again = Annotated[
    list[str] | None,
    typer.Argument(
        autocompletion=completion.jobs,
        help="Ids and ranges (0-3,7), and SLURM options (mem_gb=64).",
        show_default=False,
    ),
]
EndedIn = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.states,
        help="Jobs in these states: failed,timeout,oom; otherwise all that ended badly.",
    ),
]


def resubmit(
    folder: Folder,
    items: Again = None,
    state: EndedIn = None,
    where: Where = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A SLURM option to change: --set mem_gb=64; may be repeated.")
    ] = None,
    launcher: Annotated[
        str | None, typer.Option(help="local_pool, slurm_script or slurm_submitit; otherwise that of the last launch.")
    ] = None,
    runner: Annotated[str | None, typer.Option(help="The script that runs jobs which were written in Python.")] = None,
    n_jobs: Annotated[int | None, typer.Option(help="With local_pool: how many run at a time.")] = None,
    gpus_per_job: Annotated[float | None, typer.Option(help="With local_pool: as hydra.launcher.gpus_per_job.")] = None,
    job_timeout_min: Annotated[
        float | None, typer.Option(help="With local_pool: how many minutes a job may run; otherwise as before.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without a question.")] = False,
    json: Json = False,
) -> None:
    """Run jobs again that ended badly: the same ids and configurations, the next attempt."""
    experiment = Experiment.at(folder)
    settings = [item for item in items or () if "=" in item]
    ids = [item for item in items or () if "=" not in item]
    planned = experiment.plan_resubmission(
        ",".join(ids) or None,
        state=state,
        where=where,
        settings=settings_of([*(set_ or []), *settings]),
        launcher=launcher,
        runner=runner,
        n_jobs=n_jobs,
        gpus_per_job=gpus_per_job,
        job_timeout_min=job_timeout_min,
    )
    if not planned.ids:
        terminal.print_answer({"jobs": []}) if json else terminal.say(
            f"nothing to run again in {experiment.folder.path}"
        )
        return
    if not json:
        terminal.say(_described(experiment, planned, settings=[*(set_ or []), *settings]))
    terminal.require_yes("Go on?", "nothing was done", is_given=yes)
    with _stopped_by_signals():
        done = experiment.carry_out(planned)
    if json:
        terminal.print_answer({"launcher": planned.launcher, **_record(done)})
    else:
        _tell(experiment, done)
        for line in experiment.result_warnings([ran.job_id for ran in done.ran]):
            tell(line)
    if any(ran.state not in ENDED_WELL for ran in done.ran):
        raise typer.Exit(1)


def heal(folder: Folder, json: Json = False) -> None:
    """Submit jobs again, with more, that died for want of memory or time under on_oom or on_timeout: each once, however
    often this is typed."""
    experiment = Experiment.at(folder)
    done = experiment.heal()
    if json:
        healed = [one._asdict() for one in done.healed]
        terminal.print_answer({**done._asdict(), "healed": healed})
    else:
        for line in sentences(done, experiment.folder.path):
            terminal.say(line)
    for launch, why in done.refused.items():
        tell(f"error: launch {launch}: {why}")
    if done.unasked:
        launches = f"launch{'es' * (len(done.unasked) > 1)} {', '.join(done.unasked)}"
        tell(f"error: what became of {launches} could not be asked; repeat the command when the scheduler answers")
    if done.refused or done.unasked:
        raise typer.Exit(REFUSED)


def diff(
    folder: Folder,
    one: JobNumber,
    other: JobNumber,
    packages: Annotated[
        bool, typer.Option("--packages", help="Name the packages, too, whose versions differ.")
    ] = False,
    json: Json = False,
) -> None:
    """Show two jobs side by side: what differs in variables, configuration and code, and how their attempts went."""
    found = Experiment.at(folder).diff(one, other)
    if json:
        terminal.print_answer(found)
        return
    for side in (found["one"], found["other"]):
        terminal.say(f"job {side['job']}  {side['state']}  {settings_text(side['variables'])}")
    of_packages = [name for name in found["environment"] if name.startswith("package ")]
    for what in ("configuration", "environment"):
        changes = {name: both for name, both in found[what].items() if packages or name not in of_packages}
        terminal.say(f"{what}:" + ("" if changes else " the same"))
        if changes:
            terminal.print_rows(
                [{"key": key, f"job {one}": before, f"job {other}": after} for key, (before, after) in changes.items()],
                more="`|\xa0less\xa0-S` shows all",
            )
    if of_packages and not packages:
        counted = (
            "1 package has another version"
            if len(of_packages) == 1
            else f"{len(of_packages)} packages have other versions"
        )
        terminal.say(f"{counted}; --packages names them")


def archive(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="The file; otherwise NAME.tar.gz here.")] = None,
    logs: Annotated[bool, typer.Option("--logs", help="With what the jobs have printed.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="With all files of the jobs, checkpoints, too.")] = False,
    ro_crate: Annotated[
        bool, typer.Option("--ro-crate", help="As an RO-Crate, for repositories of research data.")
    ] = False,
    license_: Annotated[
        str | None, typer.Option("--license", help="Of an RO-Crate: https://creativecommons.org/licenses/by/4.0/")
    ] = None,
) -> None:
    """Pack an experiment into one file: manifest, configurations, states, results and metrics."""
    name = None if out is None else str(out)
    path = Experiment.at(folder).archive(name, logs=logs, everything=everything, ro_crate=ro_crate, license=license_)
    terminal.say(f"{path}  ({size_text(Path(path).stat().st_size)}); unpack it with: tar xzf {shlex.quote(path)}")


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """A signal ends the command with the shell's status for it, after a sentence about the jobs that ran here."""
    try:
        yield
    except Interrupted as stop:
        cancelled = sum(ran.state is State.CANCELLED for ran in stop.ran)
        tell(f"stopped by {stop}: {counted(cancelled)} cancelled; the same command runs what is left")
        raise typer.Exit(128 + stop.number) from None


def _worked(experiment: Experiment, done: Worked, rerun: str) -> Iterator[str]:
    """What a worker by hand has done, for people."""
    where = experiment.folder.path
    if done.launch is None:
        ended = "ended (rerun=never)" if rerun == "never" else "completed"
        yield f"nothing to run in {where}: the jobs that pass have {ended}, run, or wait"
        return
    states = f": {done.states}" if done.ran else ""
    yield f"{counted(len(done.ran))} of {where} ran here (launch {done.launch.number}){states}"
    if others := planned_attempts(done.launch).keys() - {end.job_id for end in done.ran} - {*done.left}:
        yield f"{counted(len(others))} taken by others meanwhile"
    if done.left:
        why = _why_left(done, done.launch.record["options"])
        yield f"{counted(len(done.left))} left{f' ({why})' if why else ''}: {shortened(format_ids(done.left))}"
    if bad := [ran.job_id for ran in done.ran if ran.state not in ENDED_WELL]:
        show = f"experiment-manager show {as_word(where)} {bad[0]}"
        yield f"the same command runs again what did not complete, and `{show}` tells why the first one did not"


def _why_left(done: Worked, options: Mapping[str, Any]) -> str:
    """Why jobs were not begun, as far as that is known."""
    if options["max_jobs"] is not None and len(done.ran) >= options["max_jobs"]:
        return f"max_jobs={options['max_jobs']}"
    if options["until"] is not None:
        return f"no time for them until {time.strftime('%H:%M', time.localtime(options['until']))}"
    return "no time for them in this allocation" if schedulers.current_task() is not None else ""


def _paths(paths_of: Callable[[bool], list[str]], streams: Sequence[bool]) -> list[str]:
    """The logs of these streams; of several, those that there are."""
    found, missing = [], None
    for is_stderr in streams:
        try:
            found += paths_of(is_stderr)
        except ResultError as error:
            missing = error
    if missing is not None and not found:
        raise missing
    return found


def _say_pieces(pieces: Iterable[bytes], experiment: Experiment, job: int) -> None:
    log, is_empty = LogText(), True
    for piece in pieces:
        is_empty = False
        if not log.say(piece):
            return
    if is_empty:
        show = f"experiment-manager show {as_word(experiment.folder.path)} {job}"
        tell(
            f"job {job} of {experiment.folder.path} has printed nothing there, or its log was removed; `{show}` tells "
            "what became of it"
        )


def _record(done: Resubmitted) -> dict[str, Any]:
    return {
        "launch": done.launch and done.launch.number,
        "jobs": list(done.ids),
        "scripts": list(done.scripts),
        "slurm_ids": [array.slurm_id for array in done.submitted],
        "states": {str(ran.job_id): str(ran.state) for ran in done.ran},
    }


def _described(experiment: Experiment, planned: Resubmission, settings: Sequence[str]) -> str:
    """`3 jobs of experiments/train again, by slurm_submitit with mem_gb=64: 1 TIMEOUT (4), 2 FAILED (5,7)`."""
    states = ", ".join(f"{len(ids)} {state} ({shortened(format_ids(ids))})" for state, ids in planned.states.items())
    options = f" with {' '.join(settings)}" if settings else ""
    return f"{counted(len(planned.ids))} of {experiment.folder.path} again, by {planned.launcher}{options}: {states}"


def _tell(experiment: Experiment, done: Resubmitted) -> None:
    launch = f" (launch {done.launch.number})" if done.launch is not None else ""
    for array in done.submitted:
        terminal.say(f"submitted as SLURM job {array.slurm_id}{launch}")
    if done.scripts and done.launch is not None:
        terminal.say(how_to_submit(experiment.folder, done.launch, done.scripts))
