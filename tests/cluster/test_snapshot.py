"""`hydra.launcher.snapshot=true` on the cluster: editing reaches no job that waits, if it were for days."""

from tests.cluster.sweeps import slurm
from tests.cluster.test_submitit import noted
from tests.conftest import Program, wait_until
from tests.test_provenance import git
from tests.test_snapshot import AS_LAUNCHED, SNAPSHOT, Project


def test_editing_reaches_no_queued_job(program: Program) -> None:
    """Jobs that SLURM holds while everything is edited run as launched, alone and as two ranks under `srun`."""
    project = Project(program.home.parent / "project")
    project.make()
    ranks = "hydra.launcher.tasks_per_node=2"
    for name, settings in (("alone", ()), ("ranks", (ranks,))):
        words = ["hydra/launcher=slurm_submitit", f"hydra.sweeper.experiment_name={name}", *settings]
        hold = "+hydra.launcher.additional_parameters={hold: true}"
        project.launch("seed=1", SNAPSHOT, hold, *words)
    project.edit_all()
    git(project.home, "commit", "-q", "-a", "-m", "second")
    for name in ("alone", "ranks"):
        project.experiment = project.home / "experiments" / name
        queued = project.told("status")["jobs"]
        assert {"QUEUED": [0]} == queued
        (array,) = noted(project).values()
        slurm("scontrol", "release", array["slurm_id"])
        wait_until(lambda: project.states() == ["0.1.COMPLETED"], 60)
        assert [{**AS_LAUNCHED, "data": "b", "seed": 1}] == [row["result"] for row in project.told("results")]
