"""The options of a sweep and of launchers, `hydra.sweeper.*` and `hydra.launcher.*`: their defaults, as the plugins
register them, and their check. Every Hydra program on the machine imports this, so it imports nothing that
Hydra has not imported itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from experiment_manager.errors import ExperimentManagerError, GridError, OptionsError
from experiment_manager.scheduler.slurm.options import SlurmOptions, valid_options

if TYPE_CHECKING:
    from experiment_manager.model.pruning import Pruner

_PLUGINS = "hydra_plugins.hydra_experiment_manager"
_PROVIDER = "experiment_manager"


@dataclass
class SweeperConf:
    """hydra/sweeper=experiment"""

    _target_: str = f"{_PLUGINS}.sweeper.ExperimentSweeper"
    _recursive_: bool = False  # a filter's own _target_ is ours to call
    experiment_name: str = "${hydra.job.name}"  # the name of the experiment's folder
    experiment_path: str = "experiments"  # where that folder lies
    params: dict[str, Any] | None = field(default_factory=dict)  # the sweep, as in Hydra's basic sweeper
    zip: list[Any] = field(default_factory=list)  # groups of keys that vary together
    blocks: list[Any] = field(default_factory=list)  # several grids: {params, zip}
    pass_filter: Any = None  # which jobs may run: expressions, mappings of variables, ids, functions
    sample: int | None = None  # a random subset of those that pass
    sample_seed: int = 0  # which subset
    rerun: str = "failed"  # of the jobs that have ended: failed, never, always
    on_change: str = "error"  # a job is there with another configuration: error, new
    on_drift: str = "error"  # a job composes something else than was submitted: error, warn
    on_other_program: str = "error"  # a job is there of another script of the same name: error, same
    repeat: int | None = None  # each combination so many times, told apart by the variable `repeat`
    max_batch_size: int | None = None  # jobs that are handed over at once, as in Hydra
    pruner: Any = None  # ends jobs early that do worse than others: asha, hyperband, median, patient, or {name: ...}
    metric: Any = None  # by which, and what tables rank by: the name of a logged metric, or {name, take: last|best}
    direction: str | None = None  # which of its values are better: minimize, maximize
    dry_run: bool = False  # tell what the sweep would do, and do nothing


class Options(NamedTuple):
    """`hydra.sweeper.*`, as the sweeper reads them; the defaults are those of SweeperConf."""

    experiment_name: str
    experiment_path: str
    params: Mapping[str, Any]
    zip: Sequence[Sequence[str]]
    blocks: Sequence[Mapping[str, Any]]
    pass_filter: Any
    sample: int | None
    sample_seed: int
    rerun: str
    on_change: str
    on_drift: str
    on_other_program: str
    repeat: int | None
    pruner: Any
    metric: Any
    direction: str | None
    dry_run: bool

    @property
    def pruning(self) -> "Pruner | None":
        """What ends jobs early; None: they run to their end. Raises OptionsError."""
        if self.pruner is self.metric is self.direction is None:
            return None
        from experiment_manager.model import pruning

        return pruning.checked(self.pruner, self.metric, self.direction, where="hydra.sweeper.")

    @property
    def ranking(self) -> dict[str, Any]:
        """What the record of a launch keeps of how its jobs are compared: what ends them early, or, where nothing does,
        by what they are. Raises OptionsError."""
        if (pruner := self.pruning) is not None:
            return {"pruner": pruner._asdict()}
        if self.metric is None:
            return {}
        from experiment_manager.model import pruning

        found = pruning.ranking(self.metric, self.direction, where="hydra.sweeper.")
        return {"ranking": found} if found else {}

    def check(self) -> "Options":
        """The same options. Raises ExperimentManagerError naming the one that is wrong."""
        from experiment_manager.model import policy  # which programs without a sweep do not need

        for name, value, allowed in (
            ("rerun", self.rerun, policy.RERUN),
            ("on_change", self.on_change, policy.ON_CHANGE),
            ("on_drift", self.on_drift, policy.ON_DRIFT),
            ("on_other_program", self.on_other_program, policy.ON_OTHER_PROGRAM),
        ):
            if value not in allowed:
                raise ExperimentManagerError(f"hydra.sweeper.{name}={value} is not known; use {', '.join(allowed)}")
        _check_dry_run(self.dry_run)
        if self.sample is not None and self.sample < 1:
            raise ExperimentManagerError(f"hydra.sweeper.sample={self.sample} selects nothing; use 1 or more, or null")
        if self.repeat is not None and (isinstance(self.repeat, bool) or self.repeat < 1):
            raise ExperimentManagerError(f"hydra.sweeper.repeat={self.repeat} runs nothing; use 1 or more, or null")
        _ = self.pruning
        _check_zip(self.zip, "hydra.sweeper.zip")
        for block in self.blocks:
            if not isinstance(block, Mapping) or not set(block) <= {"params", "zip"}:
                raise GridError(
                    f"hydra.sweeper.blocks has {block!r}; a block is a mapping with the keys params and zip"
                )
            if not isinstance(block.get("params") or {}, Mapping):
                raise GridError(
                    f"hydra.sweeper.blocks has {block!r}, whose params are no mapping of keys to values: {{lr: '1,2'}}"
                )
            _check_zip(block.get("zip") or (), f"hydra.sweeper.blocks has {block!r}, whose zip")
        return self


def _check_zip(groups: Any, where: str) -> None:
    """Raises GridError unless these are groups of keys."""
    if isinstance(groups, str) or not isinstance(groups, Sequence):
        raise GridError(f"{where} is {groups!r}; it is a list of groups: [[lr, batch_size]]")
    for group in groups:
        is_group = isinstance(group, Sequence) and not isinstance(group, str)
        if not is_group or not all(isinstance(key, str) for key in group):
            raise GridError(f"{where} has {group!r}; it is a list of groups: [[lr, batch_size]]")


def _check_dry_run(value: Any) -> None:
    if not isinstance(value, bool):
        raise ExperimentManagerError(f"hydra.sweeper.dry_run={value} is neither true nor false")


@dataclass
class SearchConf:
    """hydra/sweeper=experiment_optuna: the options of hydra-optuna-sweeper, and some of hydra/sweeper=experiment"""

    _target_: str = f"{_PLUGINS}.sweeper.ExperimentOptunaSweeper"
    _recursive_: bool = False  # the sampler is made where trials are proposed
    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}])
    experiment_name: str = "${hydra.job.name}"  # the name of the experiment's folder
    experiment_path: str = "experiments"  # where that folder lies
    sampler: Any = MISSING  # what proposes: hydra/sweeper/sampler=tpe, random, grid, qmc, cmaes, nsgaii
    direction: Any = "minimize"  # or maximize; a list of them for several objectives
    metric: Any = (
        None  # of each: a field of the result or a logged metric, or {name, take: last|best}; null: the result
    )
    pruner: Any = None  # ends trials early that do worse than others, as of hydra/sweeper=experiment
    n_trials: int = 20  # of the whole search, however often the command is repeated
    n_jobs: int | None = None  # jobs at a time; null: as many as the launcher says
    average_over: Any = None  # variables, as [seed]: a trial has a job for each of their values, and counts by the mean
    pass_filter: Any = None  # of variables: what does not pass it is drawn again
    warm_start: str | None = None  # the folder of an experiment whose results it begins with
    max_failure_rate: float = 0.0  # nothing more is proposed when more of the trials that have ended have failed
    params: dict[str, Any] | None = field(default_factory=dict)  # the space, as on the command line
    storage: Any = None  # not needed: the folder of the experiment is one
    study_name: str | None = None  # not needed, either
    rerun: str = "failed"  # of the jobs that have ended: failed, never, always
    on_drift: str = "error"  # a job composes something else than was submitted: error, warn
    on_other_program: str = "error"  # a job is there of another script of the same name: error, same
    dry_run: bool = False  # tell what the search would do, and do nothing


class SearchOptions(NamedTuple):
    """`hydra.sweeper.*`, as the sweeper of searches reads them; the defaults are those of SearchConf."""

    experiment_name: str
    experiment_path: str
    sampler: Mapping[str, Any]
    direction: Any
    metric: Any
    pruner: Any
    n_trials: int
    n_jobs: int | None
    average_over: Any
    pass_filter: Any
    warm_start: str | None
    max_failure_rate: float
    params: Mapping[str, Any]
    storage: Any
    study_name: str | None
    rerun: str
    on_drift: str
    on_other_program: str
    dry_run: bool

    @property
    def directions(self) -> tuple[str, ...]:
        """One for each objective; those of hydra-optuna-sweeper's are of an Enum."""
        given = self.direction if isinstance(self.direction, Sequence) else [self.direction]
        listed = [given] if isinstance(given, str) else given
        return tuple(str(getattr(item, "name", item)) for item in listed)

    @property
    def metrics(self) -> tuple[tuple[str, str], ...]:
        """The name of each objective and how it is taken; none where it is what jobs return. Raises OptionsError."""
        from experiment_manager.model.search import BEST, LAST

        if self.metric is None:
            return ()
        given = [self.metric] if isinstance(self.metric, str | Mapping) else self.metric
        found = []
        for item in given if isinstance(given, Sequence) else [given]:
            body = item if isinstance(item, Mapping) else {"name": item}
            name, take = body.get("name"), body.get("take", LAST)
            if not isinstance(name, str) or not name or take not in (LAST, BEST) or set(body) - {"name", "take"}:
                raise OptionsError(
                    f"hydra.sweeper.metric={item!r} names no metric; write its name, or {{name: reward, take: best}}"
                )
            found.append((name, take))
        if len(found) != len(self.directions):
            raise OptionsError(
                f"hydra.sweeper.metric names {len(found)}, and hydra.sweeper.direction {len(self.directions)}; give "
                "each metric a direction"
            )
        return tuple(found)

    @property
    def pruning(self) -> "Pruner | None":
        """What ends trials early; None: they run to their end. Raises OptionsError."""
        if self.pruner is None:
            return None
        from experiment_manager.model import pruning

        if len(self.directions) > 1:
            raise OptionsError("hydra.sweeper.pruner compares trials by one metric; leave it out of several objectives")
        found = pruning.checked(self.pruner, self.metric, self.directions[0], where="hydra.sweeper.")
        if (
            found is not None
            and self.averaged
            and (found.patience is not None or set(found.group_by) & {*self.averaged})
        ):
            raise OptionsError(
                "hydra.sweeper.average_over has the means of trials compared, and hydra.sweeper.pruner "
                + ("patient looks at each job alone" if found.patience is not None else "groups by the same variable")
                + "; leave one of them out"
            )
        return found

    @property
    def averaged(self) -> tuple[str, ...]:
        """The names of the variables over whose values trials are averaged. Raises OptionsError."""
        names = [self.average_over] if isinstance(self.average_over, str) else self.average_over
        if names is None:
            return ()
        if not isinstance(names, Sequence) or not all(isinstance(name, str) and name for name in names):
            raise OptionsError(f"hydra.sweeper.average_over={names} is no list of variables, such as [seed]")
        return tuple(dict.fromkeys(names))

    def check(self) -> "SearchOptions":
        """The same options. Raises ExperimentManagerError naming the one that is wrong."""
        from experiment_manager.model import policy  # which programs without a sweep do not need
        from experiment_manager.model.search import DIRECTIONS

        for name, value, allowed in (
            ("rerun", self.rerun, policy.RERUN),
            ("on_drift", self.on_drift, policy.ON_DRIFT),
            ("on_other_program", self.on_other_program, policy.ON_OTHER_PROGRAM),
            *(("direction", direction, DIRECTIONS) for direction in self.directions or ("[]",)),
        ):
            if value not in allowed:
                raise ExperimentManagerError(f"hydra.sweeper.{name}={value} is not known; use {', '.join(allowed)}")
        _check_dry_run(self.dry_run)
        _ = self.metrics, self.averaged, self.pruning
        if self.n_trials < 1:
            raise ExperimentManagerError(f"hydra.sweeper.n_trials={self.n_trials} tries nothing; use 1 or more")
        if self.n_jobs is not None and self.n_jobs < 1:
            raise ExperimentManagerError(f"hydra.sweeper.n_jobs={self.n_jobs} runs nothing; use 1 or more, or null")
        if not 0 <= self.max_failure_rate <= 1:
            raise ExperimentManagerError(
                f"hydra.sweeper.max_failure_rate={self.max_failure_rate} is no rate; use a number from 0 to 1"
            )
        return self


_SAMPLERS: dict[str, dict[str, Any]] = {
    "tpe": {
        "_target_": "optuna.samplers.TPESampler",
        "seed": None,
        "n_startup_trials": 10,
        "n_ei_candidates": 24,
        "prior_weight": None,
        "multivariate": False,
        "group": False,
    },
    "random": {"_target_": "optuna.samplers.RandomSampler", "seed": None},
    "grid": {"_target_": "optuna.samplers.GridSampler", "_partial_": True, "seed": None},
    "qmc": {"_target_": "optuna.samplers.QMCSampler", "seed": None, "qmc_type": "sobol", "scramble": False},
    "cmaes": {
        "_target_": "optuna.samplers.CmaEsSampler",
        "seed": None,
        "x0": None,
        "sigma0": None,
        "n_startup_trials": 1,
        "popsize": None,
        "consider_pruned_trials": False,
        "use_separable_cma": False,
        "with_margin": False,
        "lr_adapt": False,
    },
    "nsgaii": {
        "_target_": "optuna.samplers.NSGAIISampler",
        "seed": None,
        "population_size": 50,
        "mutation_prob": None,
        "crossover_prob": 0.9,
        "swapping_prob": 0.5,
    },
}
"""The config groups of samplers: those of hydra-optuna-sweeper, which makes them where it is installed."""


@dataclass
class LocalPoolConf:
    """hydra/launcher=local_pool"""

    _target_: str = f"{_PLUGINS}.launchers.LocalPoolLauncher"
    n_jobs: int = -1  # how many at a time; -1, as in joblib: one per processor that this process may use
    start_method: str = "spawn"  # how jobs begin: each by itself, or forked from a process that has their libraries
    gpus_per_job: float | None = (
        None  # 0.5, 1, 2; null: the visible ones over the jobs that run at once; 0: all for all
    )
    job_timeout_min: float | None = None  # how long a job may run, in minutes
    after: Any = None  # each job begins when those of another experiment have completed: its folder
    snapshot: bool = False  # jobs run from a copy of the code as it is now
    experiment_name: str = "${hydra.job.name}"  # with other sweepers than ours, which name no experiment
    experiment_path: str = "experiments"  # where that folder lies, for those


_LAUNCHERS = {
    "slurm_script": "SlurmScriptLauncher",
    "slurm_submitit": "SlurmSubmititLauncher",
}
"""The launchers that take SLURM's options, and their classes."""

_USUAL: dict[str, Any] = {
    "timeout_min": 60,
    "nodes": 1,
    "tasks_per_node": 1,
    "name": "${hydra.job.name}",
    "submitit_folder": "${hydra.sweep.dir}/.submitit/%j",
    "signal_delay_s": 120,
    "max_num_timeout": 0,
    "array_parallelism": 256,
}
"""The defaults of hydra-submitit-launcher, so that its users change one word."""


def slurm_node(launcher: str) -> dict[str, Any]:
    """The options of one launcher: every field of the record, with the launcher's own in front. A plain mapping, since
    a dataclass of so many fields costs every Hydra program 9 ms; values are checked by `slurm.options.make`."""
    own = {
        "_target_": f"{_PLUGINS}.launchers.{launcher}",
        "experiment_name": "${hydra.job.name}",  # with other sweepers than ours, which name no experiment
        "experiment_path": "experiments",
        "snapshot": False,  # jobs run from a copy of the code as it is now
        "join": False,  # workers that are there already run the jobs, too, and nothing is submitted
        "after": None,  # each job begins when those of another experiment have completed: its folder
    }
    unset = SlurmOptions()
    options = {name: getattr(unset, name) or None for name in valid_options()}
    options |= {"additional_parameters": {}, "stderr_to_stdout": False, "wait": False}
    return {**own, **options, **_USUAL}


_INSTEAD = {
    "hydra.sweeper.search_space": "write the same into hydra.sweeper.params, as lr: interval(0.01, 1)",
    "hydra.sweeper.custom_search_space": "the space of a search is written down, so that whoever runs a trial can "
    "propose the next one; keep what must not be drawn out of it by hydra.sweeper.pass_filter, or stay with "
    "hydra/sweeper=optuna, which works with our launchers, too",
    "hydra.launcher.on_oom": "its jobs share the memory of this machine, and none can be given more",
    "hydra.launcher.on_timeout": "job_timeout_min is the time limit of each job here, and "
    "`experiment-manager resubmit --job-timeout-min` raises it",
    "hydra.launcher.timeout_min": "job_timeout_min is the time limit of each job here",
}
"""What to do instead of setting options that other sweepers and launchers have."""


def require_known(given: Mapping[str, Any], known: Sequence[str], *, prefix: str, choice: str) -> None:
    """Raise OptionsError for an option that `choice`, such as hydra/launcher=local_pool, has not. A value None of one
    that others have is as good as none."""
    for name, value in given.items():
        if name in known or (value is None and f"{prefix}{name}" in _INSTEAD):
            continue
        from difflib import get_close_matches  # which programs without a mistake do not need

        near = get_close_matches(name, known, n=1)
        hint = f"its options are {', '.join(known)}"
        if f"{prefix}{name}" in _INSTEAD:
            hint = _INSTEAD[f"{prefix}{name}"]
        elif near:
            hint = f"did you mean {near[0]}?"
        elif prefix == "hydra.launcher." and name in valid_options():
            hint = (
                "it is one of SLURM's; keep those in a file such as conf/hydra/launcher/cluster.yaml, below `defaults: "
                "[slurm_submitit]`, which hydra/launcher=cluster chooses"
            )
        raise OptionsError(f"{prefix}{name} is no option of {choice}; {hint}")


def register_sweeper() -> None:
    """Hydra knows the options of our sweeper.

    It forgets them when its state is put back, as its fixtures for tests do; then it executes the plugins again, which
    call this.
    """
    _store(group="hydra/sweeper", name="experiment", node=SweeperConf)
    _store(group="hydra/sweeper", name="experiment_optuna", node=SearchConf)
    there = ConfigStore.instance().repo.get("hydra", {}).get("sweeper", {}).get("sampler", {})
    for name, node in _SAMPLERS.items():
        if f"{name}.yaml" not in there:
            _store(group="hydra/sweeper/sampler", name=name, node=node)


def register_launchers() -> None:
    """Hydra knows the options of our launchers; see `register_sweeper`."""
    for name, launcher in _LAUNCHERS.items():
        _store(group="hydra/launcher", name=name, node=slurm_node(launcher))
    _store(group="hydra/launcher", name="local_pool", node=LocalPoolConf)


def _store(*, group: str, name: str, node: Any) -> None:
    """Hydra knows a config. A key that it has not is let through, to be refused by `require_known`, in a sentence."""
    found: Any = ConfigStore.instance()
    found.store(group=group, name=name, node=node, provider="experiment_manager")
    found = found.repo
    for part in (*group.split("/"), f"{name}.yaml"):
        found = found[part]
    OmegaConf.set_struct(found.node, False)
