"""What is written down for others to read has no secrets in it, and what others may have written is not loaded."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager import Experiment
from experiment_manager.model.secrets import MASK, masked, masked_words
from tests.conftest import Program, examples, files_below

SECRET = "q7Xk29fLmPz81RtyWv45"


@pytest.mark.parametrize(
    "words",
    [
        (f"+wandb.api_key={SECRET}",),
        (f"db.password='{SECRET}'",),
        (f"hub_token={SECRET}",),
        ("--password", SECRET),
        (f"--api-key={SECRET}",),
        (f"note=ghp_{SECRET}{SECRET}",),
        (f"data=https://me:{SECRET}@example.org/data",),
        (f"data=s3://{SECRET}@bucket/data",),
    ],
)
def test_a_secret_in_a_command_line_is_masked(words: tuple[str, ...]) -> None:
    """By its name, by how it begins, or by its place in an address."""
    found = masked_words(["train.py", *words, "seed=1,2"])
    assert SECRET not in " ".join(found)
    assert MASK in " ".join(found)
    assert ("train.py", "seed=1,2") == (found[0], found[-1])


@pytest.mark.parametrize(
    "word",
    [
        *("eos_token=</s>", "max_tokens=2048", "tokenizer=gpt2-medium-2024-01", "key=value", "+keys=[a,b]"),
        *("wandb.api_key=${oc.env:WANDB_API_KEY}", "password=$PASSWORD", "data=https://example.org/a@b", "secret="),
        *("name=a-long-name-with-1-number-in-it", "attention.key=64", "--seed", "-m", "seed=1,2", "me@example.org"),
    ],
)
def test_what_is_no_secret_stays(word: str) -> None:
    """The words of people who train language models, and what only says where a secret is."""
    assert [word, "7"] == masked_words([word, "7"])


@pytest.mark.hypothesis
@given(words=st.lists(st.text(max_size=40), max_size=5))
@examples(200)
def test_masking_takes_any_words(words: list[str]) -> None:
    """Each word stays one, and what is masked stays as it is when it is masked again."""
    found = masked_words(words)
    assert len(words) == len(found)
    assert found == masked_words(found)
    assert all(masked(one) == one for one in found)


def test_a_sweep_writes_no_secret_down_beside_its_configurations(program: Program) -> None:
    """A password that a sweep was given is in the configurations of its jobs, which need it, and in no record of how
    it was typed, nor in the report."""
    done = program.sweep("seed=1,2", f"+hub.password={SECRET}", "hydra/launcher=slurm_script", LIGHT="1")
    assert 0 == done.returncode, done.stderr
    experiment = program.home / "experiments/train"
    record = json.loads((experiment / "launches/0001/launch.json").read_text())
    assert f"+hub.password={MASK}" in record["argv"]
    assert f"+hub.password={MASK}" in record["overrides"]
    assert SECRET == program.told("show", "0")["configuration"]["hub"]["password"]
    assert SECRET in " ".join(Experiment.at(experiment).job(0).overrides)
    assert 0 == program.tool("report", "--out", str(program.home / "report.html")).returncode
    told = {name: body for name, body in files_below(experiment).items() if SECRET.encode() in body}
    assert SECRET not in (program.home / "report.html").read_text()
    assert {"manifest.sqlite", "1", "multirun.yaml"} == {Path(name).name for name in told}  # 1: of `generations`


@pytest.mark.parametrize("mode", [0o644, 0o666])
def test_a_pickle_that_anybody_may_write_is_not_loaded(tmp_path: Path, mode: int) -> None:
    """A function that travels as a pickle runs where only its owner and group may write it; else the job has failed,
    and the reason is a sentence."""
    experiment = Experiment(["seed"], "e", tmp_path)
    for seed in range(2):
        experiment.add_job({"seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter([0, 1])

    def runner(*_: object) -> int:
        return 7

    experiment.run(runner, where="0")
    (pickle,) = (tmp_path / "e/tasks").iterdir()
    pickle.chmod(mode)
    experiment.run(runner, where="1")
    assert ("COMPLETED" if mode == 0o644 else "FAILED") == experiment.states().state(1)
    log = (tmp_path / "e/jobs/1/stderr.1.log").read_text()
    assert "Traceback" not in log
    assert ("to load it may run anything" in log) == (mode == 0o666)
