"""What `--json` prints has the shapes that the documentation tells."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from jsonschema import Draft202012Validator

from experiment_manager import Experiment, Submitted
from experiment_manager.analysis.status import SearchStatus
from experiment_manager.cli.main import main, program
from experiment_manager.cli.shapes import NOT_FINITE, SHAPES, schema
from experiment_manager.cli.terminal import print_answer
from tests.conftest import in_shape


def test_every_verb_with_json_has_a_shape() -> None:
    """No verb has `--json` without a schema, and each schema is one."""
    group: Any = typer.main.get_command(program())
    speaking = {name for name, command in group.commands.items() if any("--json" in one.opts for one in command.params)}
    assert speaking == set(SHAPES)
    for verb in SHAPES:
        Draft202012Validator.check_schema(schema(verb))


@pytest.fixture
def study(tmp_path: Path) -> Experiment:
    """Six jobs: one has failed, and one has results that are no numbers."""
    experiment = Experiment(["lr", "seed"], "study", tmp_path)
    for lr in (0.1, 0.2):
        for seed in (1, 2, 3):
            experiment.add_job({"lr": lr, "seed": seed}, {"lr": lr, "shape": (seed, 2), "edge": float("inf")})
    experiment.save()
    experiment.save_pass_filter(experiment.get_all_ids())

    def runner(job_id: int, variables: dict[str, Any], _: Any) -> Any:
        if job_id == 5:
            raise ValueError("told to raise")
        return {"score": variables["lr"], "odd": float("nan") if job_id == 4 else 0.5}

    for job_id in (0, 1, 2, 3, 4):
        experiment.run_id(job_id, runner)
    with pytest.raises(ValueError, match="told to raise"):
        experiment.run_id(5, runner)
    experiment.tag("good", where="seed == 1")
    experiment.tag("paper")
    experiment.note("the second grid")
    (Path(experiment.folder.path) / "states/notes.txt").touch()  # which doctor finds odd
    (tmp_path / "runner.py").write_text("raise SystemExit(1)\n")
    return experiment


CALLS = (
    *("status", "status --all --group-by lr", "jobs", "show 4", "show 5 --resolve", "filter", "diff 0 4", "results"),
    *("results --group-by lr --aggregate mean,max", "results --missing", "efficiency --group-by lr", "list"),
    *("filter seed<3 --dry-run", "compare --by lr --metric score --where seed<3", "report", "export --to tensorboard"),
    *("tag 0-3 baseline", "tag", "note 4 odd", "note", "list --du", "doctor"),
    *("clean --dry-run", "move moved", "cancel", "heal", "script --runner runner.py", "work --runner runner.py"),
    *(
        "resubmit --launcher slurm_script --runner runner.py --yes",
        "resubmit --state lost --launcher slurm_script --yes",
    ),
)


@pytest.mark.parametrize("call", CALLS)
def test_what_is_printed_has_its_shape(
    study: Experiment, call: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each verb prints what its schema tells, no key more and none less, also of values that are no JSON."""
    monkeypatch.chdir(study.folder.parent)
    verb, *words = call.split()
    folder = "." if verb == "list" else "study"
    assert main([verb, folder, *words, "--json"]) in (0, 1)
    printed = capsys.readouterr().out
    assert "$" not in printed.replace("$HOME", "")
    assert all(1 == item["schema_version"] for item in _items(json.loads(printed)))
    in_shape(verb, printed)


@pytest.mark.parametrize(
    ("verb", "answer"),
    [
        ("submit", [Submitted("study-1", "17", "study-1.sh", is_new=True, is_edited=False)._asdict()]),
        ("submit", [{"script": "study-1.sh", "sbatch": "Job 17 to start at noon"}]),
        ("search", SearchStatus(20, 3, 2, 0, 1, ("minimize",), float("inf"), 1, None)._asdict()),
    ],
)
def test_what_needs_slurm_or_optuna_has_its_shape(verb: str, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The same of the records that these verbs print."""
    print_answer(answer)
    in_shape(verb, capsys.readouterr().out)


def test_numbers_that_are_not_finite(study: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    """They are null, and beside them stands what they were, by their place; tuples are lists."""
    assert 0 == main(["show", study.folder.path, "4", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert {"lr": 0.2, "shape": [2, 2], "edge": None} == shown["configuration"]
    assert {"configuration.edge": "inf"} == shown[NOT_FINITE]
    assert 0 == main(["results", study.folder.path, "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert {"result.odd": "nan"} == rows[4][NOT_FINITE]
    assert (None, False) == (rows[4]["result"]["odd"], NOT_FINITE in rows[0])
    assert 0 == main(["results", study.folder.path, "--format", "json"])
    assert json.loads(capsys.readouterr().out)[4]["odd"] is None


def _items(answer: Any) -> list[Any]:
    return answer if isinstance(answer, list) else [answer]
