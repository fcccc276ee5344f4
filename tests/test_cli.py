"""The command line: each verb is the twin of a Python call, speaks JSON on demand, and never shows a bare traceback."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from experiment_manager import Experiment
from experiment_manager.cli import main as command_line
from experiment_manager.cli.main import main, program
from experiment_manager.cli.results import Compared
from experiment_manager.cli.terminal import Chosen
from experiment_manager.model.records import State
from experiment_manager.store.states import States
from tests.conftest import Prepared, Program, clean_env

pytestmark = pytest.mark.xdist_group("cli")  # what is prepared for several tests is prepared once
VERBS = ["run", "search", "status", "jobs", "results", "show", "filter", "list", "script", "submit", "cancel"]
VERBS += ["logs", "resubmit", "diff", "archive", "report", "work", "compare", "plot", "export", "efficiency"]
VERBS += ["move", "clean", "tag", "note", "doctor", "mcp", "hold", "release", "remove", "heal"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Two algorithms, two seeds, one job failed."""
    first, second = ("algorithm=TD3,DDPG", "seed=1,2", "how=well"), ("algorithm=TD3", "seed=1", "how=raise")
    return Prepared(tmp_path_factory.mktemp("swept"), first, second)


@pytest.fixture
def swept(prepared: Prepared) -> Program:
    """The experiment as it was prepared, untouched."""
    return prepared.again()


def test_there_are_no_other_verbs() -> None:
    """This list of verbs is complete."""
    assert set(VERBS) == {
        command.name or command.callback.__name__ for command in program().registered_commands if command.callback
    }


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(program: Program, verb: str) -> None:
    """Every verb has --help with an example that begins with its own name."""
    done = program.python("-m", "experiment_manager", verb, "--help")
    assert done.returncode == 0
    assert f"experiment-manager {verb} experiments" in done.stdout


def test_console_script_is_the_module(program: Program) -> None:
    """`experiment-manager` and `python -m experiment_manager` are the same program."""
    script = Path(sys.executable).parent / "experiment-manager"
    done = program.python(str(script), "--help")
    assert done.stdout == program.python("-m", "experiment_manager", "--help").stdout


def test_status_names_what_the_filter_has_dropped(swept: Program) -> None:
    """Of the jobs that have not begun: those that no sweep is going to run as things are."""
    assert "outside of the pass filter" not in swept.tool("status").stdout
    assert 0 == swept.sweep("seed=7,8", "hydra.sweeper.pass_filter={seed: 7}").returncode
    (job,) = swept.told("status")["dropped"]
    said = swept.tool("status").stdout
    assert f"1 job PENDING is outside of the pass filter (job {job})" in said


def test_status_groups_what_went_wrong(swept: Program) -> None:
    """Counts first, then equal failures together with the ids, and how to see more."""
    done = swept.tool("status")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert f"{swept.experiment}: 5 jobs, 1 passes the filter" == lines[0]
    assert re.search(r"COMPLETED +4 +0-3", done.stdout)
    assert "1 job FAILED: ValueError: told to raise (job 4)" in lines
    assert f"`experiment-manager show {swept.experiment} 4` tells more about the first" in lines
    told = swept.told("status")
    assert ({"COMPLETED": 4, "FAILED": 1}, {"COMPLETED": [0, 1, 2, 3], "FAILED": [4]}) == (told["counts"], told["jobs"])


def test_jobs_and_results_are_the_twins_of_python(swept: Program) -> None:
    """What the verbs print as JSON is what the calls on Experiment return."""
    experiment = Experiment.at(swept.experiment)
    assert experiment.jobs() == swept.told("jobs")
    assert experiment.result_rows() == swept.told("results")
    assert experiment.jobs("seed == 2") == swept.told("jobs", "--where", "seed == 2")
    assert experiment.show(4) == swept.told("show", "4")


def test_efficiency_is_the_twin_of_python(swept: Program) -> None:
    """It prints what jobs used, here without a scheduler, and as JSON what the call returns; where no job is chosen it
    says so."""
    (used,) = Experiment.at(swept.experiment).efficiency("how == 'well'").groups
    (told,) = swept.told("efficiency", "--where", "how == 'well'")["groups"]
    assert ((4, 4), list(used.hours)) == ((told["n_jobs"], told["n_attempts"]), list(told["hours"].values()))
    assert {name: value for name, value in used._asdict().items() if not isinstance(value, tuple)} == {
        name: told[name] for name in told if name not in ("hours", "unused", "lost")
    }
    done = swept.tool("efficiency", "--group-by", "algorithm")
    assert re.search(r"algorithm +jobs +attempts +memory +processors +time", done.stdout)
    assert "algorithm=TD3: lost to attempts that ended badly (1 FAILED): " in done.stdout
    assert "no scheduler ran them" in done.stdout
    none = swept.tool("efficiency", "--where", "seed == 3")
    assert ("no job is chosen\n", True) == (none.stdout, "no job passes it; seed is one of 1, 2" in none.stderr)


def test_results_are_averaged_over_seeds(swept: Program) -> None:
    """Mean and sample deviation over the completed jobs that agree in the variables named."""
    groups = swept.told("results", "--group-by", "algorithm", "--where", "how == 'well'")
    assert [("TD3", 2, 2.25), ("DDPG", 2, 0.75)] == [
        (group["variables"]["algorithm"], group["count"], group["mean"]["result"]) for group in groups
    ]
    assert pytest.approx(0.75 * 2**0.5) == groups[0]["std"]["result"]
    table = swept.tool("results", "--group-by", "algorithm").stdout
    assert re.search(r"algorithm +count +result mean +result std", table)
    assert re.search(r"DDPG +2 +0\.75 +0\.353553", table)


def test_results_with_an_unknown_variable(swept: Program) -> None:
    """The sentence lists the variables that there are."""
    done = swept.tool("results", "--group-by", "algo")
    assert (2, "error: 'algo' is no variable; the variables are algorithm, how, seed\n") == (
        done.returncode,
        done.stderr,
    )


def test_filter_saves_explains_and_is_obeyed(swept: Program) -> None:
    """Rules one after the other; --explain tells what each dropped; --dry-run saves nothing; `run` obeys."""
    done = swept.tool("filter", "{algorithm: TD3}", "seed < 2", "--explain", "--dry-run")
    assert re.search(r"\{algorithm: TD3\} +5 +2 +2-3", done.stdout)
    assert re.search(r"seed < 2 +3 +1 +1\b", done.stdout)
    assert "2 jobs" in done.stdout
    assert [4] == swept.told("filter")["jobs"]
    told = swept.told("filter", "state:COMPLETED", "{seed: 2}")
    assert ([1, 3], True, ["state:COMPLETED", "{seed: 2}"]) == (
        told["jobs"],
        told["saved"],
        [rule["rule"] for rule in told["rules"]],
    )
    assert [1, 3] == json.loads((swept.experiment / "pass_filter.json").read_text())["jobs"]
    assert 2 == swept.tool("run", "0").returncode
    assert 0 == swept.tool("run", "3").returncode


def test_several_conditions_all_apply(swept: Program) -> None:
    """`--where` can be repeated, and `--selected` is what the saved filter lets pass."""
    ids = [row["job"] for row in swept.told("results", "--where", "seed == 1", "--where", "algorithm == 'TD3'")]
    assert [0, 4] == ids
    swept.tool("filter", "1-2")
    assert [1, 2] == [row["job"] for row in swept.told("jobs", "--selected")]
    assert [2] == [row["job"] for row in swept.told("jobs", "--selected", "--where", "{seed: 1}")]


@pytest.mark.usefixtures("light")
def test_job_without_a_configuration(program: Program) -> None:
    """A job that no sweep has let pass: a filter on the configuration drops it, and `show` and `run` say so."""
    program.sweep("seed=1,2", "hydra.sweeper.pass_filter='0'")
    assert [0] == [row["job"] for row in program.told("jobs", "--where", "cfg.seed > 0")]
    assert "when it first passes a sweep's filter" in program.tool("show", "1").stdout
    program.tool("filter", "1")
    done = program.tool("run", "1")
    assert (2, True) == (done.returncode, "no configuration yet" in done.stderr)


@pytest.mark.usefixtures("light")
def test_jobs_without_a_configuration_keep_no_others_from_running(program: Program) -> None:
    """`filter` and `status` say which of those that may run the sweep has to compose first; whoever runs or writes the
    others is told so, once, and where nothing is left it is refused."""
    program.sweep("seed=1,2,3,4", "hydra.sweeper.pass_filter={seed: [1, 2]}", "hydra/launcher=slurm_script")
    said = (
        "jobs 2-3 have no configuration yet, since no sweep's filter has let them pass: the same sweep, with one that "
        "lets them pass, composes them"
    )
    assert said not in program.tool("status").stdout
    assert said in program.tool("filter", "0-3").stdout
    assert said in program.tool("status").stdout
    assert [2, 3] == program.told("status")["unconfigured"] == program.told("filter", "0-3")["unconfigured"]
    done = program.tool("work")
    assert (0, 1) == (done.returncode, done.stderr.count(f"{said}; the others are run")), done.stderr
    assert ["0.1.COMPLETED", "1.1.COMPLETED"] == program.states()
    done = program.tool("script", "--rerun", "always")
    assert (0, 1) == (done.returncode, done.stderr.count(said)), done.stderr
    launched = Experiment.at(program.experiment).launch("local_pool", program.home / "train.py", rerun="always")
    assert (0, 1) == launched.ids
    before = program.states()
    for verb in ("work", "script"):
        done = program.tool(verb)
        assert (2, True) == (done.returncode, said in done.stderr)
    assert before == program.states()
    program.sweep("seed=1,2,3,4", "hydra/launcher=slurm_script")
    assert "no configuration yet" not in program.tool("status").stdout


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("algo == 1", "the variables are algorithm, how, seed"),
        ("seed ==", "no expression"),
        ("seed > 5", "nothing passes the filter"),
        ("0-99", "job 5, which is not there"),
        ("state:DONE", "the states are"),
        ("{algorithm: [}", "no YAML"),
        ("no.such.function", "neither a variable"),
        ("sample:x", "sample:10"),
        ("__import__('os').system('true')", "no variable"),
    ],
)
def test_filter_mistakes(swept: Program, rule: str, said: str) -> None:
    """One sentence, exit code 2, and the filter that was there stays."""
    before = (swept.experiment / "pass_filter.json").read_bytes()
    done = swept.tool("filter", rule)
    assert done.returncode == 2
    assert said in done.stderr
    assert 1 == len(done.stderr.splitlines())
    assert before == (swept.experiment / "pass_filter.json").read_bytes()


def test_show_tells_everything_about_a_job(swept: Program) -> None:
    """Variables, overrides, configuration, command, log paths, and the traceback of a failure."""
    said = swept.tool("show", "4").stdout
    for expected in (
        "job 4  FAILED  algorithm=TD3 seed=1 how=raise",
        "overrides: algorithm=TD3 seed=1 how=raise",
        "  tau: 0.005",
        f"cd {swept.home} && {sys.executable} train.py -cp ",
        f"stderr: {swept.experiment}/jobs/4/stderr.1.log",
        "ValueError: told to raise",
    ):
        assert expected in said
    done = swept.tool("show", "99")
    assert (2, True) == (done.returncode, "there is no job 99" in done.stderr)


def test_foreign_files_are_named_and_skipped(swept: Program) -> None:
    """Files that are not ours in states/ and jobs/ are named where they matter, and the rest is shown."""
    for name in ("notes.txt", "4.1.DONE", "x.1.COMPLETED"):
        (swept.experiment / "states" / name).touch()
    (swept.experiment / "jobs/notes.txt").touch()
    (swept.experiment / "jobs/0/attempt.1.json").write_text("{broken")
    (swept.experiment / "jobs/0/metrics.1.jsonl").write_bytes(b'{"step": 1}\nnonsense\n{"step": 2, "time": 1, "val')
    done = swept.tool("status")
    assert done.returncode == 0
    assert "not ours: states/4.1.DONE, states/notes.txt, states/x.1.COMPLETED, jobs/notes.txt" in done.stderr
    assert {"COMPLETED": 4, "FAILED": 1} == swept.told("status")["counts"]
    results = swept.tool("results", "--json")
    assert (3, {}) == (results.returncode, json.loads(results.stdout)[0]["metrics"])
    assert 3 == swept.tool("show", "0").returncode


@pytest.mark.usefixtures("light")
def test_list_finds_experiments(swept: Program) -> None:
    """Every experiment below a folder, with its counts; none is said, too."""
    swept.sweep("seed=1", "hydra.sweeper.experiment_name=other")
    done = swept.python("-m", "experiment_manager", "list", ".", "--json")
    names = {row["path"].rpartition("/")[2]: row["counts"] for row in json.loads(done.stdout)}
    assert {"train": {"COMPLETED": 4, "FAILED": 1}, "other": {"COMPLETED": 1}} == names
    assert "no experiments below conf" in swept.python("-m", "experiment_manager", "list", "conf").stdout
    assert 2 == swept.python("-m", "experiment_manager", "list", "nowhere").returncode


def test_shell_completion(program: Program) -> None:
    """The script for a shell is printed, and what it asks for at a TAB is answered with the verb."""
    env = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # the tests may have no shell above them
    done = program.python("-m", "experiment_manager", "--show-completion", "bash", **env)
    assert "complete -o default -F _experiment_manager_completion experiment-manager" in done.stdout, done.stderr
    asked = {"_EXPERIMENT_MANAGER_COMPLETE": "complete_bash", "COMP_WORDS": "experiment-manager sta", "COMP_CWORD": "1"}
    assert "status" == program.python("-m", "experiment_manager", **asked).stdout.strip()


@pytest.mark.usefixtures("light")
def test_markup_in_values_is_printed_as_it_is(program: Program) -> None:
    """Square brackets in values are no markup for the table."""
    program.sweep("text=choice('[red]x[/red]')")
    assert "[red]x[/red]" in program.tool("jobs").stdout


def test_commands_that_are_shown_can_be_pasted(tmp_path: Path) -> None:
    """Whatever the folder is called, a shell makes of a command in a message that command, about that folder."""
    place = tmp_path / 'it\'s "$HOME"; touch PWN'
    experiment = Experiment(["seed"], "a b;touch PWN", place)
    for seed in range(2):
        experiment.add_job({"seed": seed}, {"seed": seed})
    experiment.save()
    states = States(experiment.folder)
    states.claim(0, {"launch": None})
    states.finish(0, 1, State.FAILED, {"reason": "told to"})
    verbs = [
        ("status",), ("show", "0"), ("run", "1"), ("submit",), ("filter",), ("filter", "0-1"), ("status",),
        ("logs", "0"), ("archive", "--out", str(place / "x y.tar.gz")),
    ]  # fmt: skip
    said = ""
    for verb, *rest in verbs:
        done = Program(tmp_path).python("-m", "experiment_manager", verb, experiment.folder.path, *rest)
        said += done.stdout + done.stderr
    shown = re.findall(r"`(experiment-manager .*?)`", said) + re.findall(r"unpack it with: (.*)", said)
    shown += re.findall(r"^  (experiment-manager .*)$", said, re.MULTILINE)
    assert {"show", "filter", "script", "run", "xzf"} == {line.split()[1] for line in shown}
    for line in shown:
        script = f'experiment-manager() {{ printf \'%s\\0\' "$@"; }}; tar() {{ experiment-manager "$@"; }}; {line}'
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert {experiment.folder.path, str(place / "x y.tar.gz")} & {*done.stdout.split("\0")}, line
    assert [] == list(tmp_path.rglob("PWN"))


def completed(program: Program, *words: str) -> list[str]:
    """What bash would offer for the last of these words."""
    asked = {"_EXPERIMENT_MANAGER_COMPLETE": "complete_bash", "COMP_CWORD": str(len(words))}
    done = program.python("-m", "experiment_manager", COMP_WORDS=" ".join(("experiment-manager", *words)), **asked)
    assert "" == done.stderr
    return done.stdout.split()


def test_jobs_states_and_columns_are_completed(swept: Program) -> None:
    """Ids and states also as the last of a list, columns and metrics as the results have them, the options of `run`;
    and where nothing can be read, nothing is offered and nothing is said."""
    place = str(swept.experiment)
    assert ["0", "1", "2", "3", "4"] == completed(swept, "show", place, "")
    assert ["0-2,4"] == completed(swept, "cancel", place, "0-2,4")
    assert ["failed,timeout"] == completed(swept, "resubmit", place, "--state", "failed,tim")
    assert ["algorithm"] == completed(swept, "results", place, "--group-by", "algo")
    assert ["loss"] == completed(swept, "results", place, "--sort", "lo")
    assert ["job,loss"] == completed(swept, "results", place, "--columns", "job,lo")
    assert ["loss"] == completed(swept, "report", place, "--metric", "lo")
    assert ["--launch"] == completed(swept, "run", place, "--la")
    assert ["4"] == completed(swept, "run", place, "4")
    assert [] == completed(swept, "show", "nowhere", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("results", "x", "--colums", "y"),
            "experiment-manager results has no option --colums; did you mean --columns",
        ),
        (("reslts", "x"), "experiment-manager: no such command 'reslts'"),
        (("show", "x"), "experiment-manager show: missing argument"),
        (("show", "x", "y"), "experiment-manager show: invalid value for"),
        (("run", "x", "7", "--what"), "experiment-manager run: unrecognized arguments: --what"),
    ],
)
def test_mistyped_calls_are_answered_in_one_sentence(
    arguments: tuple[str, ...], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """What cannot be read as a call is answered as any other mistake: one line that begins with `error: `, 2."""
    assert 2 == main(arguments)
    error = capfd.readouterr().err
    assert (1, True) == (error.count("\n"), error.startswith(f"error: {said}")), error
    assert "--help` tells what there is" in error


def test_list_of_verbs_fits_a_terminal() -> None:
    """Each verb is explained in a line of 80 columns, in a whole sentence."""
    for verb, sentence in [each for verbs in command_line.VERBS.values() for each in verbs.items()]:
        assert (True, True) == (len(f"  {verb:10}  {sentence}") < 80, sentence.endswith(".")), verb


def test_what_verbs_have_in_common_is_declared_once() -> None:
    """compare and plot take the same things in the same words; whatever shows chosen jobs has the options to choose."""
    group: Any = typer.main.get_command(program())
    taken = {verb: {one.name: one for one in command.params} for verb, command in group.commands.items()}
    for name in Compared._fields:
        one, other = (taken[verb][name] for verb in ("compare", "plot"))
        assert (one.opts, one.help, one.default) == (other.opts, other.help, other.default)
    for verb in ("results", "jobs", "report", "export", "efficiency"):
        assert {*Chosen._fields} <= taken[verb].keys(), verb


def test_a_verb_imports_what_it_needs() -> None:
    """Each verb is in the module that is told, and asking for one imports no other module of verbs."""
    every = {one.name or one.callback.__name__: one for one in program().registered_commands if one.callback}
    for home, verbs in command_line.VERBS.items():
        for verb in verbs:
            assert f"experiment_manager.cli.{home}" == getattr(every[verb].callback, "__module__", None)
    script = (
        "import sys\nfrom experiment_manager.cli import main as command_line\n"
        "assert 2 == command_line.main(['status', '/nowhere/at/all'])\n"
        "print(sorted(home for home in command_line.VERBS if f'experiment_manager.cli.{home}' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=clean_env(), capture_output=True, text=True, check=True)
    assert "['jobs']\n" == done.stdout
