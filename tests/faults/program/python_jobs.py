"""The Python interface as the README shows it; typed again, it does what is missing."""

import os
from contextlib import suppress

from experiment_manager import Experiment, current_job
from experiment_manager.errors import ExperimentManagerError


def note(line: str) -> None:
    handle = os.open(os.environ["FAULTS_RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def runner(job_id: int, variables: dict[str, int], configuration: dict[str, int]) -> dict[str, int]:
    note(f"{job_id} {current_job().attempt} {variables['x']}")
    experiment.save_results(job_id, "big.json", Experiment.json_saver, [configuration["x"]] * 1000, override=True)
    note(f"{job_id} {current_job().attempt} returns")
    return {"score": variables["x"] * 10}


try:
    place = os.path.abspath("experiments")
    try:
        experiment = Experiment.load("app", place)
    except ExperimentManagerError:
        experiment = Experiment(["x"], "app", place)
    for x in (1, 2):
        with suppress(ValueError):  # it is there already
            experiment.add_job({"x": x}, {"x": x, "rate": 0.1})
    experiment.save()
    experiment.save_pass_filter(experiment.get_all_ids())
    for job in experiment.jobs():
        if job["state"] != "COMPLETED":
            experiment.run_id(job["job"], runner)
except ExperimentManagerError as error:
    raise SystemExit(f"error: {error}") from None
