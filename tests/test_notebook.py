"""What a notebook shows: its own quickstart, executed by a kernel, and records as tables."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from experiment_manager import Experiment, Rows
from tests.conftest import Program, ProgramAfter, clean_env, wait_until

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs/notebooks/quickstart.ipynb"
PAGE = ROOT / "docs/how-to/notebooks.md"
BAD = "<script>alert('&')</script>"


def code_of(notebook: Any) -> list[str]:
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_page_is_the_notebook() -> None:
    """The code of the page is that of the notebook, block by block, and so is its YAML; no output is committed."""
    notebook, page = json.loads(NOTEBOOK.read_text()), PAGE.read_text()
    assert [block.rstrip("\n") for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)] == code_of(notebook)
    (yaml,) = re.findall(r"```yaml\n# conf/descent\.yaml\n(.*?)```", page, re.DOTALL)
    assert yaml == (NOTEBOOK.parent / "conf/descent.yaml").read_text()
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook as a kernel leaves it, in a folder of its own."""
    import nbformat
    from nbclient import NotebookClient

    home = tmp_path_factory.mktemp("notebook") / "home"
    shutil.copytree(NOTEBOOK.parent, home)
    notebook: Any = nbformat.read(home / NOTEBOOK.name, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(home)}}).execute()
    return notebook


def outputs(executed: Any, beginning: str) -> dict[str, str]:
    """What the cell that holds such code shows, by kind: text that was printed, and what was displayed."""
    (cell,) = (cell for cell in executed["cells"] if cell["cell_type"] == "code" and beginning in cell["source"])
    found: dict[str, str] = {}
    for output in cell["outputs"]:
        kinds = {output["name"]: output["text"]} if output["output_type"] == "stream" else output["data"]
        for kind, text in kinds.items():
            found[kind] = found.get(kind, "") + text
    return found


@pytest.mark.xdist_group("notebook")
def test_the_quickstart_runs(executed: Any) -> None:
    """Executed by a kernel, each cell shows what the page says: tables, a sentence, a DataFrame, a figure."""
    assert ">4<" in outputs(executed, "Experiment.from_sweep")["text/html"]
    launched = outputs(executed, "exp.launch")
    assert "Launched(4 COMPLETED in launch 0001)" in launched["text/plain"]
    status = outputs(executed, "print(status)")
    assert "experiments/descent: 4 jobs, 4 pass the filter: 4 COMPLETED\n" in status["stdout"]
    assert "COMPLETED</td>" in status["text/html"]
    assert 2 == outputs(executed, "exp.jobs(")["text/html"].count("COMPLETED</td>")
    assert "<th>loss</th>" in outputs(executed, "exp.results()")["text/html"]
    assert "image/png" in outputs(executed, "curves.plot")


@pytest.mark.xdist_group("notebook")
def test_a_launch_shows_a_bar(executed: Any) -> None:
    """Without a terminal the bar of the pool is one output, which ends full, beside a line for each job."""
    launched = outputs(executed, "exp.launch")
    assert '<progress value="4" max="4">' in launched["text/html"]
    assert 1 == launched["text/html"].count("<progress")
    assert "4/4 jobs" in launched["text/plain"]
    assert "[4/4] job" in launched["stderr"]


@pytest.mark.xdist_group("notebook")
def test_an_interrupted_cell_ends_its_jobs(program: Program) -> None:
    """Interrupting the kernel, which signals all its processes, ends the jobs as Ctrl-C does, and the kernel lives."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(cwd=str(program.home), env=clean_env(LIGHT="1"))
    try:
        launched = client.execute(
            "from experiment_manager import Experiment\n"
            "exp = Experiment.from_sweep('conf', 'config', ['seed=1,2,3', 'sleep=600'], experiment_name='train')\n"
            "exp.launch('local_pool', 'train.py', n_jobs=2)",
            stop_on_error=False,  # else the kernel aborts what it is asked within a tenth of a second after an error
        )
        wait_until(lambda: ["0.1.RUNNING", "1.1.RUNNING"] == program.states())
        manager.interrupt_kernel()
        reply = reply_to(client, launched)
        assert ("error", "Interrupted", "SIGINT") == (reply["status"], reply["ename"], reply["evalue"])
        assert ["0.1.CANCELLED", "1.1.CANCELLED"] == program.states()
        assert "ok" == reply_to(client, client.execute("exp.counts()"))["status"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def reply_to(client: Any, asked: str) -> Any:
    """What the kernel answers to that request; answers to others may come before it."""
    while True:
        reply = client.get_shell_msg(timeout=60)
        if reply["parent_header"].get("msg_id") == asked:
            return reply["content"]


class Text(HTMLParser):
    """The text of HTML that is well formed, and loads nothing."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self._open = "", list[str]()
        self.feed(html)
        assert [] == self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"div", "table", "thead", "tbody", "tr", "th", "td"}
        assert {name for name, _ in attrs} <= {"style"}
        style = dict(attrs).get("style") or ""
        assert "url(" not in style
        assert not re.search(r"(?<!-)color:(?!inherit)|background:(?!transparent)", style)  # those of a dark page
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag == self._open.pop()

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def shown(value: Any) -> str:
    return Text(value._repr_html_()).text


def test_what_people_wrote_is_text(tmp_path: Path) -> None:
    """Variables, results and reasons are escaped, in every record that shows itself, and in dark colours, too."""
    experiment = Experiment(["what"], "study", tmp_path)
    experiment.add_job({"what": BAD}, {"what": BAD})
    experiment.add_job({"what": "good"}, {"what": "good"})
    experiment.save()
    experiment.save_pass_filter([0, 1])
    assert "experiment study in" in shown(experiment)

    def runner(*_: Any) -> None:
        raise ValueError(BAD)

    with pytest.raises(ValueError, match="alert"):
        experiment.run_id(0, runner)
    experiment.run_id(1, lambda *_: {"said": BAD})
    status = experiment.status(by=["what"], every=True)
    for value in (
        status,
        status.counts,
        experiment.jobs(),
        experiment.result_rows(),
        experiment.select("what == 'good'"),
    ):
        text = shown(value)
        assert "<script>" not in value._repr_html_()
        assert "good" in text or value is status.counts
    assert f"ValueError: {BAD}" in shown(status)
    assert BAD in shown(experiment.result_rows())
    assert "nothing to show" in shown(Rows([]))


def test_a_status_reads_as_a_sentence(program_after: ProgramAfter) -> None:
    """Printed, it says where, how many, in which states, and what needs attention first."""
    program: Program = program_after("seed=1,2", "how=well,raise")
    experiment = Experiment.at(program.experiment)
    expected = (
        f"{program.experiment}: 4 jobs, 4 pass the filter: 2 COMPLETED, 2 FAILED; "
        "2 jobs FAILED: ValueError: told to raise (jobs 1,3)"
    )
    assert expected == str(experiment.status()) == repr(experiment.status())


def test_many_rows_are_cut() -> None:
    """A notebook gets the first rows of many, and how many more there are; `print` has all of them."""
    rows = Rows([{"job": number, "variables": {"job": 0, "lr": 0.1}} for number in range(10_000)])
    text = shown(rows)
    assert "... and 9,950 more" in text
    assert text.startswith("job variables.job lr 0 0 0.1 ")
    assert len(repr(rows)) < 300
    assert str(list(rows)) == str(rows)
    assert rows == list(rows)
    assert shown(rows[:2]).endswith("lr 0 0 0.1 1 0 0.1 ")
