"""`experiment-manager mcp`: an agent's client starts it as a process, and calls the verbs."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import Experiment
from experiment_manager.cli.main import main
from tests.conftest import clean_env, files_below, in_shape

pytest.importorskip("mcp")

Calling = Callable[..., Coroutine[Any, Any, tuple[list[str], bool]]]


@pytest.fixture
def study(tmp_path: Path) -> Experiment:
    """Four jobs, one of which has run; beside it, a module that must not be imported, and a folder outside of it."""
    experiment = Experiment(["lr", "seed"], "study", tmp_path / "experiments")
    for lr in (0.1, 0.2):
        for seed in (1, 2):
            experiment.add_job({"lr": lr, "seed": seed}, {"lr": lr, "token": "${oc.env:TOKEN}"})
    experiment.save()
    experiment.save_pass_filter(experiment.get_all_ids())
    experiment.run_id(2, lambda *_: {"score": 0.5})
    (tmp_path / "experiments/rules.py").write_text("open('imported', 'x')\ndef keep(variables):\n    return True\n")
    Experiment([], "outside", tmp_path).save()
    return experiment


def talking(study: Experiment, what: Callable[[Any, Calling], Coroutine[Any, Any, None]], *words: str) -> None:
    """A client has started `experiment-manager mcp` with these words, has talked to it, and has ended it."""
    from mcp import Client, StdioServerParameters

    command = ["-m", "experiment_manager", "mcp", str(Path(study.folder.parent)), *words]
    server = StdioServerParameters(command=sys.executable, args=command, env=clean_env(TOKEN="secret"))

    async def talk() -> None:
        async with Client(server) as client:

            async def call(verb: str, **arguments: Any) -> tuple[list[str], bool]:
                result = await client.call_tool(verb, arguments)
                return [getattr(part, "text", "") for part in result.content], bool(result.is_error)

            await asyncio.wait_for(what(client, call), 240)

    asyncio.run(talk())


def test_what_only_reads_is_offered(study: Experiment) -> None:
    """The tools are the verbs that read; each answers as the command does, a mistake is its sentence, and nothing that
    an agent says writes a file, runs code, reads the environment, or gets at another folder."""
    before = files_below(Path(study.folder.parent))

    async def what(client: Any, call: Calling) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {"status", "jobs", "results", "show", "filter", "logs", "list", "diff"} <= set(tools)
        assert not {"resubmit", "cancel", "submit", "run", "work", "clean", "move", "script", "tag", "mcp"} & set(tools)
        assert all(tool.annotations.read_only_hint for tool in tools.values())
        assert ["folder"] == tools["status"].input_schema["required"]
        assert {"type": "array", "items": {"type": "string"}} == {
            name: value
            for name, value in tools["jobs"].input_schema["properties"]["where"].items()
            if name != "description"
        }
        ((status,), _) = await call("status", folder="study", group_by="lr", all=True)
        assert {"COMPLETED": 1, "PENDING": 3} == in_shape("status", status)["counts"]
        ((jobs,), _) = await call("jobs", folder="study", where=["lr < 0.15", "seed == 2"])
        assert [1] == [row["job"] for row in in_shape("jobs", jobs)]
        ((found,), _) = await call("list")
        assert [study.folder.path] == [row["path"] for row in in_shape("list", found)]
        ((chosen,), _) = await call("filter", folder="study", rules=["-1 < seed", "seed < 2"])
        assert ([0, 2], False) == (in_shape("filter", chosen)["jobs"], json.loads(chosen)["saved"])
        ((shown,), _) = await call("show", folder="study", job=2)
        assert "secret" not in shown

        for said, refused in (
            ("no job 9", call("show", folder="study", job=9)),
            ("is not below", call("status", folder="../outside")),
            ("has no argument resolve", call("show", folder="study", job=2, resolve=True)),
            ("has no argument out", call("results", folder="study", out="table.parquet")),
            ("needs folder", call("status")),
            ("no function is called", call("jobs", folder="study", where=["rules.keep"])),
            ("no function is called", call("jobs", folder="study", where=["{_target_: os.mkdir, path: made}"])),
            ("there is no tool cancel", call("cancel", folder="study")),
        ):
            texts, is_error = await refused
            assert (True, True) == (is_error, said in " ".join(texts)), texts

    talking(study, what)
    assert before == files_below(Path(study.folder.parent))


def test_what_is_allowed_is_offered_too(study: Experiment) -> None:
    """A verb that was allowed does what it does on the command line, without a question; others stay away."""
    (Path(study.folder.parent) / "runner.py").write_text(
        "import sys\nfrom experiment_manager import Experiment\n"
        "Experiment.load('study', '.').run_id(int(sys.argv[2]), lambda *_: 0.25)\n"
    )

    async def what(client: Any, call: Calling) -> None:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert ({"run", "filter"}, set()) == (tools & {"run", "filter"}, tools & {"cancel", "work"})
        ((chosen,), _) = await call("filter", folder="study", rules=["0"])
        assert json.loads(chosen)["saved"]
        texts, is_error = await call("run", folder="study", job=0, runner="runner.py")
        assert not is_error, texts
        texts, is_error = await call("run", folder="study", job=1, runner="runner.py")
        assert (True, True) == (is_error, "outside the pass filter" in " ".join(texts))
        for said, refused in (
            ("no function is called", call("filter", folder="study", rules=["{_target_: os.mkdir, path: made}"])),
            ("../report.html is not below", call("report", folder="study", out="../report.html")),
            ("../elsewhere is not below", call("move", folder="study", to="../elsewhere")),
        ):
            texts, is_error = await refused
            assert (True, True) == (is_error, said in " ".join(texts)), texts

    talking(study, what, "--allow", "run,filter,report,move")
    assert {"COMPLETED": 2, "PENDING": 2} == dict(study.counts())


def test_what_cannot_be_allowed(study: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    """A verb that is not there, and a folder that is not there, are one sentence each."""
    assert 2 == main(["mcp", study.folder.parent, "--allow", "destroy"])
    assert "--allow: destroy is no verb; there are " in capsys.readouterr().err
    assert 2 == main(["mcp", "nowhere"])
    assert "nowhere is no folder" in capsys.readouterr().err
