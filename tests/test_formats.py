"""Experiments that earlier versions have written are read by this one, with the same answers from every verb."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import Experiment
from experiment_manager.cli.main import main
from experiment_manager.model import codec
from experiment_manager.model.records import JobId, State
from tests.conftest import files_below
from tests.formats.make import HERE, KINDS, answers, unpacked

VERSIONS = sorted(path for path in HERE.iterdir() if (path / "answers.json").exists())


def without_news(said: Any, known: Any) -> Any:
    """What is said, as far as the earlier version has said it: later ones may say more."""
    if isinstance(said, dict) and isinstance(known, dict):
        return {name: without_news(value, known[name]) for name, value in said.items() if name in known}
    if isinstance(said, list) and isinstance(known, list) and len(said) == len(known):
        return [without_news(one, other) for one, other in zip(said, known, strict=True)]
    return said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
def test_every_verb_answers_as_the_version_that_wrote_it(version: Path, kind: str, tmp_path: Path) -> None:
    """States, results, metrics, logs, configurations, launches are those of then, and reading changes none of them."""
    folder = unpacked(version, kind, tmp_path)
    known = codec.as_json(codec.decode(json.loads((version / "answers.json").read_text())[kind]))  # told in tags then
    before = files_below(folder)
    said = answers(folder)
    assert known == without_news(said, known)
    after = files_below(folder)
    assert before == {name: after.get(name) for name in before}


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
def test_verbs_that_write_go_on_from_there(version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A filter is saved, jobs are compared, an archive is packed, a report is drawn, scripts are written, and a job
    that had failed runs again as its next attempt."""
    folder = unpacked(version, "local", tmp_path)
    for verb, *rest in (
        ("filter", "0-1"),
        ("diff", "0", "1"),
        ("archive", "--out", str(tmp_path / "x.tar.gz")),
        ("report", "--out", str(tmp_path / "x.html")),
        ("script", "--rerun", "always"),
    ):
        assert 0 == main([verb, str(folder), *rest]), verb
    assert "2 jobs of" in capsys.readouterr().out
    assert (folder / "slurm_scripts.sh").exists()
    experiment = Experiment.at(unpacked(version, "python", tmp_path))
    (failed,) = experiment.get_ids("state:FAILED")
    experiment.run_id(failed, lambda *_: {"score": 2.5})
    assert (2, State.COMPLETED) == experiment.states().last(JobId(failed))[1:3]
