"""The arguments that several verbs take."""

from pathlib import Path
from typing import Annotated

import typer

HOW_TO_GET_MORE = "--columns\xa0NAMES shows others, `|\xa0less\xa0-S` all"
"""The hint for columns that do not fit the terminal."""

Folder = Annotated[Path, typer.Argument(help="The experiment's folder.", show_default=False)]
JobNumber = Annotated[int, typer.Argument(help="The id of the job.", show_default=False)]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", help="Only jobs that pass this filter; may be repeated."),
]
Columns = Annotated[
    str | None, typer.Option("--columns", help="Only these columns, in this order; patterns, too: seed,'val/*'.")
]
Selected = Annotated[bool, typer.Option("--selected", help="Only jobs that pass the saved filter.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
