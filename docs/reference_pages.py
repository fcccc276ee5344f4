"""The reference of the documentation, from what the programs themselves say: commands, options, and names in Python."""

import ast
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

import experiment_manager
from experiment_manager.cli import shapes
from experiment_manager.cli.main import program
from experiment_manager.execution.run import parser as parser_of_run
from experiment_manager.hydra import schema
from experiment_manager.scheduler.slurm.options import FIELDS

_MADE = {"field(default_factory=dict)": "{}", "field(default_factory=list)": "[]", "MISSING": "tpe"}
_NO_OPTIONS = ("_target_", "_recursive_", "defaults")


def write(folder: Path) -> None:
    """The pages are there, anew."""
    folder.mkdir(exist_ok=True)
    for name, page in (("commands", commands), ("options", options), ("python", python), ("json", json_shapes)):
        (folder / f"{name}.md").write_text("\n".join(page()) + "\n")


def commands() -> Iterator[str]:
    """Every command of `experiment-manager`, as `--help` tells it."""
    yield "# Commands"
    yield ""
    yield "A mistake is one sentence and exit status 2. What people read is aligned for them; `--json` is for scripts."
    group: Any = typer.main.get_command(program())
    for name, command in sorted(group.commands.items()):
        yield from ("", f"## {name}", "")
        if name == "run":
            yield from ("```text", parser_of_run().format_help().strip(), "```")
            continue
        yield " ".join((command.help or "").split())
        if command.epilog:
            yield from ("", "```console", f"$ {command.epilog.removeprefix('Example: ')}", "```")
        yield from ("", *_parameters(command, name))


def _parameters(command: Any, name: str) -> Iterator[str]:
    with typer.Context(command, info_name=name) as context:
        found = [one.get_help_record(context) for one in command.get_params(context) if "--help" not in one.opts]
    rows = [[f"`{record[0]}`", record[1]] for record in found if record is not None]
    yield from _table(["argument or option", "meaning"], rows)


def options() -> Iterator[str]:
    """The options of sweepers and launchers, as Hydra knows them."""
    yield "# Options of sweepers and launchers"
    yield ""
    yield "On the command line or in the program's YAML: `hydra.sweeper.NAME` and `hydra.launcher.NAME`."
    records = (
        ("hydra/sweeper=experiment", schema.SweeperConf),
        ("hydra/sweeper=experiment_optuna", schema.SearchConf),
        ("hydra/launcher=local_pool", schema.LocalPoolConf),
    )
    for title, record in records:
        rows = [row for row in _fields(record) if row[0].strip("`") not in _NO_OPTIONS]
        yield from ("", f"## {title}", "", *_table(["option", "default", "meaning"], rows))
    yield from ("", "## hydra/launcher=slurm_script and slurm_submitit", "")
    usual = schema.slurm_node("SlurmScriptLauncher")
    rows = [[f"`{name}`", _default(usual.get(name)), str(one.metadata["doc"])] for name, one in FIELDS.items()]
    yield from _table(["option", "default", "meaning"], rows)


def _fields(record: type) -> Iterator[list[str]]:
    """Name, default and comment of each field, as they are written."""
    source = inspect.getsource(record)
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    lines = source.splitlines()
    for field in body.body:
        if isinstance(field, ast.AnnAssign) and field.value is not None:
            written = " ".join(lines[field.lineno - 1 : field.end_lineno])
            words = re.sub(r"\s+\)$", "", written.partition("  # ")[2])  # of a default in parentheses
            default = ast.unparse(field.value)
            default = _MADE.get(default, default)
            yield [f"`{ast.unparse(field.target)}`", "" if default == "None" else f"`{default}`", words]


def _default(value: Any) -> str:
    return "" if value in (None, (), {}) else f"`{value}`"


def json_shapes() -> Iterator[str]:
    """What each command prints with `--json`."""
    yield "# Shapes of `--json`"
    yield ""
    yield (
        "A command prints one document: an object, or a list of objects. Each bears the number of its shape, "
        f"`schema_version`, which is {shapes.SCHEMA_VERSION}. A key that is there keeps its name and its meaning as "
        "long as the number is the same; others may come, so read the keys that you know."
    )
    yield ""
    yield (
        "A number that is not finite is `null`, and the object says what it was: "
        f'`"{shapes.NOT_FINITE}": {{"result.loss": "nan"}}`. Tuples are lists; enums, paths, bytes (as base64) '
        "and keys are text."
    )
    for verb in sorted(shapes.SHAPES):
        yield from ("", f"## {verb}", "", "```json", json.dumps(shapes.schema(verb), indent=2), "```")


def python() -> Iterator[str]:
    """What `experiment_manager` offers."""
    yield "# In Python"
    for name in experiment_manager.__all__:
        kind = "autoclass" if inspect.isclass(getattr(experiment_manager, name)) else "autofunction"
        yield from ("", f"## {name}", "", "```{eval-rst}", f".. {kind}:: experiment_manager.{name}")
        if name in ("Experiment", "CurrentJob", "SLURM"):
            yield "   :members:"
        yield "```"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
