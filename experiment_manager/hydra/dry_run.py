"""`hydra.sweeper.dry_run=true`: what a sweep would do, told from the plan that the sweep would carry out.

Nothing is written: no folder is made, no lock is taken, and what is found out about jobs meanwhile is recorded nowhere.
"""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiment_manager.hydra.compose import Composer
from experiment_manager.hydra.plan import Asked, Change, Kind, Plan, plan, uncollected
from experiment_manager.model import codec, stages
from experiment_manager.model.configurations import ConfigTemplate, Configured
from experiment_manager.model.facts import resolved
from experiment_manager.model.ids import format_ids, which
from experiment_manager.model.records import JobId
from experiment_manager.scheduler.records import Options as SchedulerOptions
from experiment_manager.scheduler.scripts import Arrangement, place_of_array
from experiment_manager.scheduler.submission import N_LETTERS, script_name
from experiment_manager.store.code import CodeCopy
from experiment_manager.store.launches import next_number
from experiment_manager.store.layout import Folder
from experiment_manager.text import counted, noun, one_line, settings_text

if TYPE_CHECKING:
    from experiment_manager.model.pruning import Pruner

MOST_SHOWN: Final = 5
"""Jobs that are named with their variables."""

NOTHING_DONE: Final = "nothing is written, and nothing runs (hydra.sweeper.dry_run)"
_MISSING: Final = "???"
_INTERPOLATES: Final = "${"
_ALWAYS_TOLD: Final = ("min_steps", "reduction_factor")  # of a pruner
_NO_OPTION: Final = ("_target_", "_recursive_", "_convert_", "experiment_name", "experiment_path")


class DryRun(NamedTuple):
    """A plan that stays one, and what its jobs are."""

    plan: Plan
    n_new: int
    first: Sequence[Change]  # the first jobs that would run
    unreadable: Mapping[str, JobId]  # what cannot be read of configurations, and the first job that has it so
    code: CodeCopy | None


def dry_run(asked: Asked) -> DryRun:
    """What the sweep would do. Raises what the sweep would raise before it runs anything."""
    with uncollected():
        planned = plan(asked)
        to_run = frozenset(planned.to_run)
        n_new, is_changed, first = 0, False, list[Change]()
        unreadable: dict[str, JobId] = {}
        refers: WeakKeyDictionary[ConfigTemplate, bool] = WeakKeyDictionary()  # whether a template has interpolations
        for change in planned.changes():
            is_changed = True
            n_new += change.kind is Kind.NEW
            if change.job_id not in to_run or change.configured is None:
                continue
            if len(first) < MOST_SHOWN:
                first.append(change)
            if _may_lack_more(change.configured, refers):
                for what in _lacks(asked.composer, change.job_id, change.configured):
                    unreadable.setdefault(what, change.job_id)
        code = planned.freezing().code if is_changed else None
    return DryRun(planned, n_new, first, unreadable, code)


def _may_lack_more(configured: Configured, refers: MutableMapping[ConfigTemplate, bool]) -> bool:
    """Whether a job may lack what no earlier job of its template does: an interpolation may lead somewhere in one and
    nowhere in another."""
    template, values = configured
    is_first = template not in refers
    if is_first:
        refers[template] = _INTERPOLATES in codec.dumps(template.encoded)
    has_own = any(_INTERPOLATES in value.stored or _MISSING in value.stored for value in values)
    return is_first or refers[template] or has_own


def _lacks(composer: Composer, job_id: JobId, configured: Configured) -> list[str]:
    """The values of a configuration that nobody can read: those that are missing, and interpolations that lead nowhere
    here."""
    found = []

    def unresolved(key: str, text: str, reason: str) -> None:
        found.append(f"{key}={text} cannot be resolved here ({one_line(reason)})")

    with composer.in_job(job_id):
        view = resolved(configured.encoded, unresolved=unresolved)
    return [f"{key} is missing ({_MISSING})" for key in _missing(view)] + found


def _missing(view: Any, way: tuple[str, ...] = ()) -> Iterator[str]:
    if isinstance(view, str) and view == _MISSING:
        yield ".".join(way)
    items = view.items() if isinstance(view, dict) else enumerate(view) if isinstance(view, list) else ()
    for key, item in items:
        yield from _missing(item, (*way, str(key)))


def told(found: DryRun, summary: str, launcher: DictConfig, name: str) -> Iterator[str]:
    """The lines that people read. `summary` is what the sweep says of its plan, and `name` that of the launcher."""
    planned = found.plan
    yield f"dry run of {summary}"
    n_asked = planned.dropped[0].seen if planned.dropped else len(planned.ids)
    yield f"jobs: {n_asked}, {found.n_new} of them new, {n_asked - found.n_new} known"
    for step in planned.dropped:
        yield f"filter: {step.rule} drops {len(step.ids)} of {step.seen}"
    n_jobs = len(planned.to_run)
    yield f"to run: {n_jobs}" + (f" ({noun(n_jobs)} {format_ids(planned.to_run)})" if n_jobs else "")
    for change in found.first:
        yield f"  {change.job_id}  {settings_text(change.point.variables)}".rstrip()
    if len(planned.to_run) > len(found.first):
        yield f"  ... and {len(planned.to_run) - len(found.first)} more"
    yield from launcher_lines(planned.folder, launcher, name, planned.arrangement)
    if planned.asked.after is not None and planned.upstream is not None:
        first = planned.to_run[0]
        ids = stages.upstream(stages.by_job(planned.upstream)[first], first)
        yield f"after: {planned.asked.after.words}: job {first} after {which(ids)}"
    yield from pruner_lines(planned.asked.options.pruning)
    if found.code is not None:
        yield f"snapshot: {len(found.code.files)} files of {found.code.code.root}"
    if found.first:
        change = found.first[0]
        assert change.configured is not None
        yield from configuration_lines(change.job_id, change.configured)
    yield NOTHING_DONE


def launcher_lines(folder: Folder, launcher: DictConfig, name: str, arrangement: Arrangement | None) -> Iterator[str]:
    """What would run the jobs: the launcher of that name with its options, and the arrays of what a scheduler runs."""
    options = _options(launcher) if arrangement is None else _in_force(arrangement)
    yield f"launcher: {name}{_text(options)}"
    if arrangement is not None:
        yield from _arrays(folder, arrangement, options)


def pruner_lines(pruner: "Pruner | None") -> Iterator[str]:
    """What would end jobs early, if anything would."""
    if pruner is None:
        return
    usual = {name: value for name, value in pruner._field_defaults.items() if name not in _ALWAYS_TOLD}
    options = {name: value for name, value in pruner._asdict().items() if name not in usual or value != usual[name]}
    del options["name"], options["rungs"]
    yield f"pruner: {pruner.name}{_text(options)}"


def configuration_lines(job_id: JobId, configured: Configured) -> Iterator[str]:
    """The configuration of a job as it is written: interpolations may stand for secrets."""
    yield f"configuration of job {job_id}:"
    as_written = codec.yaml_text(codec.decode(configured.encoded))
    yield from (f"  {line}" for line in as_written.splitlines())


def warnings(found: DryRun) -> Iterator[str]:
    """A sentence for each value that a job lacks: no sweep is refused for it."""
    for what, job_id in found.unreadable.items():
        yield f"warning: in job {job_id}, {what}; the job fails where it reads that"


def _options(launcher: DictConfig) -> dict[str, Any]:
    """The options of a launcher that are set."""
    options: Any
    try:
        options = OmegaConf.to_container(launcher, resolve=True)
    except OmegaConfBaseException:
        options = OmegaConf.to_container(launcher, resolve=False)
    return {key: value for key, value in options.items() if key not in _NO_OPTION and value not in (None, [], {}, "")}


def _text(options: Mapping[str, Any]) -> str:
    return f"  {settings_text(options)}" if options else ""


def _in_force(arrangement: Arrangement) -> dict[str, Any]:
    """The options of the launch, each as it holds."""
    scheduler = arrangement.scheduler
    return scheduler.in_force(scheduler.options(arrangement.options, where="hydra.launcher"))


def _arrays(folder: Folder, arrangement: Arrangement, common: Mapping[str, Any]) -> Iterator[str]:
    """A line for each job array, with the options that are its own, and what its script asks for, unless an array above
    asks for the same; or who is there already that runs the jobs."""
    if arrangement.joined is not None:
        yield f"handed to {arrangement.joined.words}"
        return
    scheduler, number = arrangement.scheduler, next_number(folder)
    letters, shown = arrangement.array_records[0]["name"][-N_LETTERS:], list[SchedulerOptions]()
    yield f"scripts: {len(arrangement.arrays)}"
    for part, (array, record) in enumerate(zip(arrangement.arrays, arrangement.array_records, strict=True), start=1):
        own = {key: value for key, value in scheduler.in_force(array.options).items() if common.get(key) != value}
        packed = f" of up to {record['pack']} jobs" if record["pack"] > 1 else ""
        after = f", after {script_name(array.after + 1)}" if array.after is not None else ""
        tasks = f"tasks: {array.n_tasks}"
        if array.n_workers is not None:
            tasks = f"workers: {array.n_workers} for {counted(len(array.jobs))}"
            packed = f", {record['pack']} at a time in each" if record["pack"] > 1 else ""
        yield f"  {script_name(part)}  --array={array.text}  {tasks}{packed}{after}{_text(own)}"
        if array.options in shown:
            continue
        shown.append(array.options)
        name = record["name"].replace(letters, "...")  # which are others when it is submitted
        place = place_of_array(folder, number, name, part, len(arrangement.arrays))
        yield from (f"    {line}" for line in scheduler.head(array, place))
