"""`experiment-manager mcp`: the verbs as tools of the Model Context Protocol, for agents, on standard input and output.

A tool is called by calling its verb in a process of its own, so that it answers, refuses and is stopped as it is when
people type it, and nothing that it prints gets into the protocol. What only reads is offered; what writes, starts or
ends anything is for those verbs alone that were allowed by name. Only experiments below one folder are spoken of.
"""

import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, NamedTuple, Union, get_args, get_origin, get_type_hints

import typer

from experiment_manager import __version__
from experiment_manager.errors import ExperimentManagerError, NotInstalled, OptionsError
from experiment_manager.model.policy import PARTIAL
from experiment_manager.model.records import NO_FUNCTIONS
from experiment_manager.store.files import is_folder
from experiment_manager.text import names_in

_READING: Final[Mapping[str, frozenset[str]]] = {
    "compare": frozenset(),
    "diff": frozenset(),
    "doctor": frozenset(),
    "efficiency": frozenset(),
    "filter": frozenset({"dry_run"}),  # which is always meant
    "jobs": frozenset(),
    "list": frozenset(),
    "logs": frozenset(),
    "results": frozenset({"out"}),
    "search": frozenset({"more", "stop"}),
    "show": frozenset({"resolve"}),  # an interpolation may stand for a secret of the environment
    "status": frozenset(),
}
"""The verbs that only read, and those of their options that do not."""

_FOR_TERMINALS: Final = frozenset(
    {"json", "yes", "watch", "wait", "follow", "columns", "format_", "only_changed", "precision"}
)
"""Options that are not for agents: an answer is JSON, nobody is asked, and nothing is waited for."""

_FOLDERS: Final = ("folder", "folders", "out")
_ADDRESS: Final = re.compile(r"[\w+-]+:|databricks\Z")
"""Of a server to export to."""

_KINDS: Final[Mapping[Any, str]] = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string"}
_MOST_CHARACTERS: Final = 100_000
"""Of an answer: an agent reads all of it."""


def register(app: typer.Typer) -> None:
    """The verb is on the command line."""

    @app.command(epilog="Example: experiment-manager mcp experiments --allow resubmit,cancel")
    def mcp(
        folder: Annotated[Path, typer.Argument(help="Only experiments below it are spoken of.")] = Path("."),
        allow: Annotated[
            str | None, typer.Option(help="Verbs that write, too: filter,work,resubmit,cancel. Default: none.")
        ] = None,
    ) -> None:
        """Offer the verbs to agents, as tools of the Model Context Protocol: what reads, unless more is allowed."""
        if not is_folder(str(folder)):
            raise ExperimentManagerError(f"{folder} is no folder; name one that holds experiments")
        from experiment_manager.cli.main import program

        serve(tools_of(program(), names_in(allow or "")), folder)


class Parameter(NamedTuple):
    """One argument of a verb."""

    name: str
    option: str | None  # None: it has a place, and no name
    annotation: Any
    is_required: bool
    help: str

    @property
    def schema(self) -> dict[str, Any]:
        """Its JSON schema."""
        kind = self.annotation
        if get_origin(kind) in (Union, UnionType):
            kind = next(part for part in get_args(kind) if part is not type(None))
        if get_origin(kind) is list:
            found: dict[str, Any] = {"type": "array", "items": {"type": _KINDS[get_args(kind)[0]]}}
        else:
            found = {"type": _KINDS[kind]}
        return {**found, "description": self.help}

    def words(self, value: Any) -> list[str]:
        """The words of the command line that say so."""
        if value is None or value is False:
            return []
        if value is True:
            return [str(self.option)]
        values = [str(item) for item in (value if isinstance(value, list) else [value])]
        return values if self.option is None else [f"{self.option}={item}" for item in values]


class Tool(NamedTuple):
    """A verb as a tool."""

    verb: str
    description: str
    parameters: tuple[Parameter, ...]
    fixed: tuple[str, ...]  # words that it always has
    only_reads: bool

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of its arguments."""
        return {
            "type": "object",
            "properties": {one.name: one.schema for one in self.parameters},
            "required": [one.name for one in self.parameters if one.is_required],
            "additionalProperties": False,
        }

    def words(self, arguments: Mapping[str, Any], root: str) -> list[str]:
        """The words of the command. Raises OptionsError for arguments that it has not, and for folders elsewhere."""
        known = {one.name: one for one in self.parameters}
        for name in arguments:
            if name not in known:
                raise OptionsError(f"{self.verb} has no argument {name}; it has {', '.join(known)}")
        for name, one in known.items():
            if one.is_required and not arguments.get(name) and arguments.get(name) != 0:
                raise OptionsError(f"{self.verb} needs {name}: {one.help}")
        options, places = list(self.fixed), list[str]()
        for name, one in known.items():
            value = arguments.get(name)
            is_place = one.name in _FOLDERS or (self.verb, one.name) == ("move", "to")
            if is_place and value is not None and not (self.verb == "export" and _ADDRESS.match(str(value))):
                value = [_below(root, item) for item in (value if isinstance(value, list) else [value])]
            (places if one.option is None else options).extend(one.words(value))
        return [self.verb, *options, "--", *places]


def _below(root: str, path: Any) -> str:
    """The path of a folder, or file, below the root. Raises OptionsError for one elsewhere."""
    found = os.path.join(root, str(path))
    if os.path.commonpath([os.path.realpath(root), os.path.realpath(found)]) != os.path.realpath(root):
        raise OptionsError(f"{path} is not below {root}; only experiments there are spoken of")
    return found


def tools_of(app: typer.Typer, allowed: Sequence[str]) -> dict[str, Tool]:
    """The verbs that only read, and those that are allowed. Raises OptionsError for what is no verb."""
    group: Any = typer.main.get_command(app)
    callbacks = {
        str(one.name or getattr(one.callback, "__name__", "")): one.callback for one in app.registered_commands
    }
    verbs = [verb for verb in group.commands if verb not in ("run", "mcp")]
    for verb in allowed:
        if verb not in (*verbs, "run"):
            raise OptionsError(f"--allow: {verb} is no verb; there are {', '.join([*verbs, 'run'])}")
    offered = [verb for verb in verbs if verb in _READING or verb in allowed]
    tools = {verb: _tool(verb, group.commands[verb], callbacks[verb], is_allowed=verb in allowed) for verb in offered}
    return {**tools, **({"run": _RUN} if "run" in allowed else {})}


_RUN: Final = Tool(
    "run",
    "Run one job here, to its end.",
    (
        Parameter("folder", None, str, True, "The experiment's folder."),
        Parameter("job", None, int, True, "The id of the job."),
        Parameter("runner", "--runner", str, False, "The script that runs jobs which were written in Python."),
        Parameter("fake", "--fake", bool, False, "Print the job instead of running it."),
    ),
    (),
    only_reads=False,
)
"""`run` has a parser of its own, since every task of a cluster starts with it."""


def _tool(verb: str, command: Any, callback: Any, *, is_allowed: bool) -> Tool:
    hidden = _FOR_TERMINALS | (frozenset() if is_allowed else _READING[verb])
    options = {one.name: one for one in command.params}
    fixed = [word for name, word in (("json", "--json"), ("yes", "--yes")) if name in options]
    fixed += ["--dry-run"] if "dry_run" in hidden else []
    hints = get_type_hints(callback)
    names = [name for name in inspect.signature(callback).parameters if name not in hidden]
    parameters = tuple(_parameter(name, options[name], hints[name]) for name in names)
    return Tool(verb, " ".join((command.help or "").split()), parameters, tuple(fixed), not is_allowed)


def _parameter(name: str, known: Any, annotation: Any) -> Parameter:
    """An argument as the command line knows it, by the name of its option: `group_by` for `--group-by`."""
    option = known.opts[-1] if known.opts[-1].startswith("-") else None
    shown = name if option is None else option.lstrip("-").replace("-", "_")
    return Parameter(shown, option, annotation, known.required, " ".join((known.help or "").split()))


def serve(tools: Mapping[str, Tool], folder: Path) -> None:
    """The tools are offered until whoever has started this closes our standard input. Raises NotInstalled."""
    try:
        import anyio
        from mcp import types
        from mcp.server import Server
        from mcp.server.stdio import stdio_server
    except ImportError as error:
        raise NotInstalled("mcp 2", "mcp") from error
    root = str(folder.resolve())

    async def list_tools(_: Any, __: Any) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=name,
                    description=tool.description,
                    input_schema=tool.schema,
                    annotations=types.ToolAnnotations(read_only_hint=tool.only_reads),
                )
                for name, tool in tools.items()
            ]
        )

    async def call_tool(_: Any, asked: types.CallToolRequestParams) -> types.CallToolResult:
        texts, is_error = await _called(tools, asked.name, asked.arguments or {}, root, anyio.run_process)
        return types.CallToolResult(content=[types.TextContent(text=text) for text in texts], is_error=is_error)

    server = Server(
        "experiment-manager",
        version=__version__,
        instructions=(
            f"Experiments, which are folders of jobs, below {root}; `list` finds them. Paths are relative to it. An "
            "answer is JSON as `experiment-manager VERB --json` prints it; `where` takes a filter: seed < 3, "
            "{algorithm: TD3}, 0-3,7, state:FAILED."
        ),
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )

    async def run() -> None:
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())

    anyio.run(run)


async def _called(
    tools: Mapping[str, Tool], name: str, arguments: Mapping[str, Any], root: str, run_process: Callable[..., Any]
) -> tuple[list[str], bool]:
    """What a verb has answered, and what it has said besides, as texts; and whether it has refused."""
    if name not in tools:
        return [
            f"there is no tool {name}; there are {', '.join(tools)} (more with `experiment-manager mcp --allow`)"
        ], True
    try:
        words = tools[name].words(arguments, root)
    except OptionsError as error:
        return [str(error)], True
    done = await run_process(
        [sys.executable, "-P", "-m", "experiment_manager", *words],
        check=False,
        cwd=root,
        env={**os.environ, NO_FUNCTIONS: "1"},  # an agent may have read of them in a log
        stdin=None,
        input=b"",
    )
    answer, said = (text.decode(errors="replace").strip() for text in (done.stdout, done.stderr))
    has_refused = done.returncode not in (0, 1, PARTIAL) or (done.returncode == 1 and not answer)
    if name == "logs":
        answer = answer[-_MOST_CHARACTERS:]  # its end tells most
    elif len(answer) > _MOST_CHARACTERS:
        return [f"the answer has {len(answer):,} characters; ask for less with `where` or `group_by`"], True
    return [text for text in (answer, said) if text] or ["nothing was printed"], has_refused
