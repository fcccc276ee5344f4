"""What is written down for others to read has no secrets in it, and what others may have written is not loaded."""

import base64
import json
import random
import shutil
import string
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager import Experiment, State
from experiment_manager.errors import FilterError, JobRefused
from experiment_manager.execution.pickled_runner import trusted
from experiment_manager.model.secrets import MASK, Masks, masked, masked_patch, masked_words
from experiment_manager.trust import TRUSTS_ANYBODY, open_to_anybody
from tests.conftest import APP, Program, examples, files_below, unpack
from tests.test_provenance import git

SECRET = "q7Xk29fLmPz81RtyWv45"
NAMES = st.sampled_from(["password", "--api_key", "hub.secret", "export SECRET", "{passwd", "credentials"])
JOINTS = st.sampled_from(["=", ": ", "'=", ":", " = ", '": '])
VALUES = st.sampled_from([SECRET, f"'{SECRET}'", f"[{SECRET},x]", "${oc.env:A}", "$A", f"{SECRET}@host", "", "***"])


@pytest.mark.parametrize(
    "words",
    [
        (f"+wandb.api_key={SECRET}",),
        (f"db.password='{SECRET}'",),
        (f"hub_token={SECRET}",),
        ("--password", SECRET),
        (f"--api-key={SECRET}",),
        (f"note=ghp_{SECRET}{SECRET}",),
        (f"note=sk-{SECRET}",),
        (f"note=sk-proj-a-b_{SECRET}-c",),
        (f"data=https://me:{SECRET}@example.org/data",),
        (f"data=s3://{SECRET}@bucket/data",),
        (f"data=s3://me:p@{SECRET}@bucket/data",),
        (f"hydra.launcher.setup=[export WANDB_API_KEY={SECRET},module load x]",),
        (f"+hub={{password: {SECRET}, user: me}}",),
        (f"api_keys=[{SECRET},{SECRET}]",),
        (f"openaiApiKey='{SECRET}'",),
        (f"python train.py --api-key={SECRET} seed=1",),
    ],
)
def test_a_secret_in_a_command_line_is_masked(words: tuple[str, ...]) -> None:
    """By its name, by how it begins, or by its place in an address."""
    found = masked_words(["train.py", *words, "seed=1,2"])
    assert SECRET not in " ".join(found)
    assert MASK in " ".join(found)
    assert ("train.py", "seed=1,2") == (found[0], found[-1])


def uuid_of(source: random.Random) -> str:
    return str(uuid.UUID(int=source.getrandbits(128), version=4))


KEYS: dict[str, Callable[[random.Random], str]] = {
    "Langfuse": lambda source: f"sk-lf-{uuid_of(source)}",
    "UUID": lambda source: f"sk-{uuid_of(source)}",
    "OpenAI": lambda source: f"sk-proj-{base64.urlsafe_b64encode(source.randbytes(36)).decode()}",
    "lower case and digits": lambda source: (
        f"sk-{''.join(source.choices(string.ascii_lowercase + string.digits, k=48))}"
    ),
    "letters and digits": lambda source: f"sk-{''.join(source.choices(string.ascii_letters + string.digits, k=32))}",
    "lower-case hex": lambda source: f"sk-{source.randbytes(16).hex()}",
    "upper-case hex": lambda source: f"sk-{source.randbytes(20).hex().upper()}",
    "token_urlsafe": lambda source: f"sk-{base64.urlsafe_b64encode(source.randbytes(16)).decode().rstrip('=')}",
    "behind words": lambda source: f"sk-or-v1-learn-{source.randbytes(9).hex()}",
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_all_kinds_that_begin_so_are_masked(kind: str) -> None:
    """Whatever they are made of: only what is of words throughout is none."""
    source = random.Random(kind)
    keys = [KEYS[kind](source) for _ in range(5000)]
    assert [] == [key for key in keys if masked(f"use {key} now") != f"use {MASK} now"]


@pytest.mark.parametrize(
    "word",
    [
        *("data.key=wikitext-103-raw-v1", "metric.key=val/accuracy_top1", "attention.key=low_rank_proj_64"),
        *("eos_token=</s>", "max_tokens=2048", "tokenizer=gpt2-medium-2024-01", "key=value", "+keys=[a,b]"),
        *("wandb.api_key=${oc.env:WANDB_API_KEY}", "password=$PASSWORD", "data=https://example.org/a@b", "secret="),
        *("name=a-long-name-with-1-number-in-it", "attention.key=64", "--seed", "-m", "seed=1,2", "me@example.org"),
        *(
            "net=sk-resnet-50-imagenet-1k-pretrained",
            "net=sk-ResNet-50-ImageNet-1k-Pretrained",
            "x=sk-learn_gradient_boosting_v2_BERT-1024",
        ),
    ],
)
def test_what_is_no_secret_stays(word: str) -> None:
    """The words of people who train language models, and what only says where a secret is."""
    assert [word, "7"] == masked_words([word, "7"])


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (f'+password = "{SECRET}"', '+password = "***"'),
        (f'+password: str = "{SECRET}"', '+password: str = "***"'),
        (f"+os.environ['WANDB_API_KEY'] = '{SECRET}'", "+os.environ['WANDB_API_KEY'] = '***'"),
        (f'+    {{"api_key": "{SECRET}", "a": "b"}}', '+    {"api_key": "***", "a": "b"}'),
        (f"+git clone https://me:{SECRET}@host/x", "+git clone https://***@host/x"),
        (f"+ghp_{SECRET}{SECRET}", "+***"),
        (f"+key = 'sk-{SECRET}'", "+key = '***'"),
        ("+key = 'sk-0123456789abcdef0123456789abcdef'", "+key = '***'"),
        ("+net = 'sk-resnet-50-imagenet-1k-pretrained'", None),
        ("+password = ask()", None),
        ("+password = f'{a}'", None),
        ("+password = '$PASSWORD'", None),
        ("+api_key: ${oc.env:KEY}", None),
        ("+url = f'https://{user}:{word}@host'", None),
        ("+tokens = 'abc'", None),
        (f"-password = '{SECRET}'", None),
        (f" password = '{SECRET}'", None),
        (f"password = '{SECRET}'", None),
    ],
)
def test_a_patch_is_masked_where_it_adds_a_secret(line: str, shown: str | None) -> None:
    """Only in the lines that a hunk adds, and where the text shows that it is one: the rest of the code stays code."""
    head = "diff --git a/x b/x\n--- a/x\n+++ b/x\n"
    ends = "" if line[0] in "+- " else f"{line}\n"  # of a binary patch, or whatever is in no hunk
    old, new = int(line[0] in "- "), int(line[0] in "+ ")
    patch = f"{head}@@ -1,{1 + old} +1,{1 + new} @@ def f\n a\n{'' if ends else line + chr(10)}{ends}"
    expected = patch if shown is None else patch.replace(line, shown)
    assert (expected.encode(), int(shown is not None)) == masked_patch(patch.encode())


def test_options_with_a_secret_are_warned_of(program: Program) -> None:
    """A launcher's options are kept as they are, since jobs need them: people are told what to write instead."""
    options = f"hydra.launcher.setup=['export WANDB_API_KEY={SECRET}']"
    done = program.sweep("seed=1", "hydra/launcher=slurm_script", options)
    assert 0 == done.returncode, done.stderr
    assert "warning: hydra.launcher.setup has what looks like a secret" in done.stderr
    done = program.sweep("seed=1", "hydra/launcher=slurm_script", "hydra.launcher.setup=['export WANDB_API_KEY=$MINE']")
    assert "looks like a secret" not in done.stderr


@pytest.mark.hypothesis
@given(words=st.lists(st.text(max_size=20) | st.builds("{}{}{}{}".format, st.text(max_size=9), NAMES, JOINTS, VALUES)))
@examples(200)
def test_masking_takes_any_words(words: list[str]) -> None:
    """Each word stays one, and whatever stands before its name, no secret is left in it."""
    found = masked_words(words)
    assert len(words) == len(found)
    assert SECRET not in " ".join(found)


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


@pytest.mark.parametrize("is_all", [False, True])
def test_an_archive_has_no_secret_of_git_or_the_environment(program: Program, *, is_all: bool) -> None:
    """The token of a remote, a secret of the environment and one in code that was not committed are in no file of an
    archive; one that was typed is where jobs need it, and neither in a record of a launch nor in what is published."""
    own, typed, written = f"ghp_{SECRET}{SECRET}", f"{SECRET}typed", f"{SECRET}written"
    git(program.home, "init", "-q")
    git(program.home, "remote", "add", "origin", f"https://me:{own}@example.org/code")
    git(program.home, "add", ".")
    git(program.home, "commit", "-q", "-m", "first")
    with (program.home / "train.py").open("a") as file:
        file.write(f"# of https://me:{written}@example.org/data\n")
    given = {"WANDB_API_KEY": f"{SECRET}given", "LIGHT": "1"}
    for seed, launcher in ((1, "local_pool"), (2, "slurm_script")):
        done = program.sweep(f"seed={seed}", f"+hub.password={typed}", f"hydra/launcher={launcher}", **given)
        assert 0 == done.returncode, done.stderr
    path = program.home / "it.tar.gz"
    done = program.tool("archive", "--ro-crate", *(["--all"] if is_all else []), "--out", str(path), **given)
    assert 0 == done.returncode, done.stderr
    unpack(path, program.home / "elsewhere")
    files = files_below(program.home / "elsewhere")
    assert {"launch.json", "code.patch", "slurm_scripts.sh", "packages.txt"} <= {Path(name).name for name in files}
    for secret in (own, given["WANDB_API_KEY"], written):
        assert [] == [name for name, body in files.items() if secret.encode() in body]
    found = {Path(name).name for name, body in files.items() if typed.encode() in body}
    kept = {"manifest.sqlite", "multirun.yaml", "attempt.1.json"} | ({"stdout.1.log"} if is_all else set())
    assert kept == found
    assert '"***"' in files["train/ro-crate-metadata.json"].decode()


def test_what_a_report_masks_stays_apart(program: Program) -> None:
    """Two values that are masked are two groups, and no name of a dataset is masked."""
    names = ("data.key=wikitext-103-raw-v1,wikitext-2-raw-v1", "image_key=rgb_agentview_256")
    masks = Masks()
    for one in names:
        name, _, values = one.partition("=")
        assert [{name: value} for value in values.split(",")] == [
            masks.settings({name: value}) for value in values.split(",")
        ]
    places = ["s3://ada:x@host/data", "s3://bob:y@host/data", "s3://ada:x@host/data"]
    shown = [masks.settings({"place": place})["place"] for place in places]
    assert (shown[0], 2) == (shown[2], len(set(shown)))
    swept = f"+hub.password={SECRET},{SECRET}2", f"+login={{api_keys: [{SECRET}], user: me}},null"
    done = program.sweep("seed=1,2", *swept, "hydra/launcher=slurm_script", LIGHT="1")
    assert 0 == done.returncode, done.stderr
    assert 0 == program.tool("report", "--out", str(program.home / "report.html")).returncode
    page = (program.home / "report.html").read_text()
    assert SECRET not in page
    assert all(f"hub.password={mask} login=" in page for mask in ("***", "***2"))


@pytest.mark.parametrize(
    ("opened", "found"),
    [
        ({}, None),
        ({"a/b/file": 0o666}, "a/b/file"),
        ({"a/b": 0o777}, "a/b"),
        ({"a": 0o757}, "a"),
        ({"a": 0o777, "a/b": 0o700}, "a"),
        ({"a": 0o1777}, None),
        ({"a": 0o750, "a/b": 0o777, "a/b/file": 0o666}, None),
        ({"a": 0o775, "a/b/file": 0o664}, None),
        ({"elsewhere": 0o777}, "elsewhere"),
        ({"elsewhere/file": 0o666}, "elsewhere/file"),
    ],
)
def test_open_is_what_anybody_may_put_something_else_in_place_of(
    reachable: Path, opened: dict[str, int], found: str | None
) -> None:
    """Whoever may write to a folder replaces all that is below it, by whichever link it was reached; but in a sticky
    folder only what is their own, and below a folder that they cannot come to nothing."""
    (reachable / "a/b").mkdir(parents=True)
    (reachable / "elsewhere").mkdir()
    for name in ("a/b/file", "elsewhere/file"):
        (reachable / name).touch()
    (reachable / "a/b/link").symlink_to("../../elsewhere/file")
    for name, mode in opened.items():
        (reachable / name).chmod(mode)
    asked = "a/b/link" if any(name.startswith("elsewhere") for name in opened) else "a/b/file"
    assert (None if found is None else str(reachable / found)) == open_to_anybody(str(reachable / asked))
    assert (str(reachable / "a") if found == "a" else None) == open_to_anybody(str(reachable / "a/no/such"))


@pytest.mark.parametrize("place", ["experiments/train", "experiments/train/manifest.sqlite", "experiments/train/conf"])
def test_no_job_begins_here_that_anybody_may_change(reachable: Path, place: str) -> None:
    """A sweep on local_pool, `work`, `resubmit` and `run` by hand begin no job of an experiment that every user may
    write to, and say what to mend; nothing is written then."""
    shutil.copytree(APP, reachable / "home", ignore=shutil.ignore_patterns("__pycache__"))
    program = Program(reachable / "home")
    assert 1 == program.sweep("seed=1", "how=well,raise", LIGHT="1").returncode
    program.tool("filter", "0-1")
    opened = program.home / place
    mode = opened.stat().st_mode
    opened.chmod(mode | 0o002)
    before = files_below(program.experiment)
    for done in (
        program.sweep("seed=3", "how=well", LIGHT="1"),
        program.tool("work", "--rerun", "always", LIGHT="1"),
        program.tool("resubmit", "--launcher", "local_pool", "--yes", LIGHT="1"),
        program.tool("run", "1", LIGHT="1"),
    ):
        assert 2 == done.returncode, done.stderr
        assert f"no job of {program.experiment} is begun" in done.stderr
        assert f"every user of this machine may write to {opened}, " in done.stderr
        assert f"`chmod -R o-w {program.experiment}` mends it" in done.stderr
        assert before == files_below(program.experiment)
    assert 0 == program.tool("run", "1", "--fake").returncode
    opened.chmod(mode)
    assert 0 != program.tool("run", "1", LIGHT="1").returncode
    assert program.states()[-1].startswith("1.")


@pytest.mark.parametrize("place", ["", "experiments", "../real"])
def test_jobs_begin_here_below_a_folder_of_anybodys(reachable: Path, place: str) -> None:
    """Of a folder above the experiment that every user may write to, as /builds of GitLab, a volume of a container, or
    a disk that all share, also one that a link leads through, each command says once what keeps others out, or that
    they are trusted, and runs the jobs; with the sticky bit there is nothing to be said."""
    shutil.copytree(APP, reachable / "home", ignore=shutil.ignore_patterns("__pycache__"))
    (reachable / "real").mkdir()
    if place == "../real":
        (reachable / "home/experiments").symlink_to(reachable / "real")
    program = Program(reachable / "home")
    assert 1 == program.sweep("seed=1", "how=well,raise", LIGHT="1").returncode
    opened = (program.home / place).resolve()
    mode = opened.stat().st_mode
    opened.chmod(mode | 0o002)
    said = f"warning: every user of this machine may write to {opened}, and so put something else in the place of "
    mends = f"`chmod +t {opened}` by its owner mends it, and where modes cannot be changed, or all users are trusted, "
    mends += f"{TRUSTS_ANYBODY}=1"
    for env, seed in ((dict[str, str](), 3), ({TRUSTS_ANYBODY: "1"}, 4)):
        swept = program.sweep(f"seed={seed}", "how=well", LIGHT="1", **env)
        program.tool("filter", "0-1")
        for done in (
            swept,
            program.tool("work", "--rerun", "always", LIGHT="1", **env),
            program.tool("resubmit", "--launcher", "local_pool", "--yes", LIGHT="1", **env),
            program.tool("run", "1", LIGHT="1", **env),
        ):
            assert "is begun" not in done.stderr
            n_said = 0 if env else 1
            assert [n_said] * 3 == [done.stderr.count(one) for one in (said, mends, "every user of this")], done.stderr
    assert {"0.3.COMPLETED", "1.7.FAILED", "2.1.COMPLETED", "3.1.COMPLETED"} <= {*program.states()}
    opened.chmod(mode | 0o1002)
    assert "every user" not in program.sweep("seed=4", "how=well", LIGHT="1").stderr


def with_a_module(place: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Experiment, Path]:
    """An experiment of one job, and a folder beside it in which a module of that name is found, which has `passes`."""
    modules = place / "modules"
    modules.mkdir()
    (modules / f"{name}.py").write_text("def passes(variables):\n    return True\n")
    experiment = Experiment(["seed"], "e", place)
    experiment.add_job({"seed": 1}, {})
    experiment.save()
    experiment.save_pass_filter([0])
    monkeypatch.setattr(sys, "path", [*sys.path, str(modules)])
    return experiment, modules


def test_a_function_finds_its_modules_below_a_folder_of_anybodys(
    reachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its pickle, in the job, nor modules beside the program are refused for a folder above them: what begins
    on a node of a cluster was looked at when it was submitted."""
    experiment, _ = with_a_module(reachable, "a_module", monkeypatch)

    def runner(*_: object) -> bool:
        import a_module  # type: ignore[import-not-found]

        return bool(a_module.passes({}))

    reachable.chmod(0o777)
    experiment.run(runner)
    assert {"COMPLETED": 1} == experiment.counts()
    said = b"".join(experiment.log(0, 1, stderr=True)).decode()
    assert said.startswith(f"warning: every user of this machine may write to {reachable}, ")
    assert 1 == said.count("every user of this machine")


def test_no_module_is_imported_from_a_folder_that_anybody_may_add_to(
    reachable: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither a function that travels as a pickle nor a filter finds a module where every user may put one, a sticky
    folder among them, and both say why; the same function finds it where only its owner may."""
    experiment, place = with_a_module(reachable, "its_module", monkeypatch)

    def runner(*_: object) -> bool:
        import its_module  # type: ignore[import-not-found]

        return bool(its_module.passes({}))

    for mode, state in ((0o1777, "FAILED"), (0o755, "COMPLETED")):
        place.chmod(mode)
        experiment.run(runner)
        assert {state: 1} == experiment.counts()
    assert "no module is imported from" in b"".join(experiment.log(0, 1, stderr=True)).decode()
    monkeypatch.setattr(sys, "path", sys.path[:-1])
    monkeypatch.chdir(place)
    place.chmod(0o1777)
    with pytest.raises(FilterError, match="No module named 'its_module'"):
        experiment.get_ids("its_module.passes")
    said = f"no module is imported from {place}: every user of this machine may write to {place}"
    assert said in capfd.readouterr().err
    place.chmod(0o755)
    assert [0] == experiment.get_ids("its_module.passes")


def test_why_a_function_was_not_loaded_is_the_reason_of_the_attempt(reachable: Path) -> None:
    """Whoever asks why a job has failed reads which file others may write to, and not only its exit code."""
    experiment = Experiment(["seed"], "e", reachable)
    for seed in range(2):
        experiment.add_job({"seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter([0, 1])

    def runner(*_: object) -> None:
        for pickle in (reachable / "e/tasks").iterdir():
            pickle.chmod(0o666)

    ends = {end.job_id: end for end in experiment.run(runner).ran}
    done, refused = (ends[job_id] for job_id in sorted(ends, key=lambda job_id: ends[job_id].state is State.FAILED))
    assert (State.COMPLETED, State.FAILED) == (done.state, refused.state)
    assert f"every user of this machine may write to {reachable / 'e/tasks'}" in (refused.reason or "")


def test_a_pickle_that_anybody_may_write_is_not_loaded(reachable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that travels as a pickle runs where only its owner and group may write it; else no job begins, and
    one that has begun has failed, both with a sentence."""
    experiment = Experiment(["seed"], "e", reachable)
    for seed in range(4):
        experiment.add_job({"seed": seed}, {})
    experiment.save()
    experiment.save_pass_filter(range(4))

    def runner(*_: object) -> int:
        return 7

    experiment.run(runner, where="0")
    (pickle,) = (reachable / "e/tasks").iterdir()
    pickle.chmod(0o666)
    with pytest.raises(JobRefused, match=rf"every user of this machine may write to {pickle}, and to load it may run"):
        experiment.run(runner, where="1")
    with pytest.raises(SystemExit, match="2"):
        trusted(str(pickle))
    assert [State.COMPLETED, State.PENDING] == [experiment.states().state(job_id) for job_id in (0, 1)]
    pickle.chmod(0o644)
    pickle.parent.chmod(0o777)
    with pytest.raises(SystemExit, match="2"):
        trusted(str(pickle))
    monkeypatch.setenv(TRUSTS_ANYBODY, "1")
    experiment.run(runner, where="1")
    monkeypatch.delenv(TRUSTS_ANYBODY)
    reachable.chmod(0o700)
    experiment.run(runner, where="2")
    reachable.chmod(0o755)
    pickle.parent.chmod(0o755)
    pickle.chmod(0o664)
    experiment.run(runner, where="3")
    assert {"COMPLETED": 4} == experiment.counts()
