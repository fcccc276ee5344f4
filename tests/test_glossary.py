"""The glossary has every word that people meet, and names nothing that is not there."""

import re
from pathlib import Path

import experiment_manager
from experiment_manager import Experiment
from experiment_manager.cli.main import program

GLOSSARY = (Path(__file__).parent.parent / "docs/glossary.md").read_text()
WORDS = GLOSSARY.partition("\n## ")[0]
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in WORDS.splitlines() if line.startswith("| **")]


def spans(column: int) -> set[str]:
    """The code in a column."""
    return {span for row in ROWS for span in re.findall(r"`([^`]+)`", row[column])}


def test_every_public_name_is_in_the_glossary() -> None:
    """What the package offers, and each command, has its line."""
    assert set(experiment_manager.__all__) <= spans(3)
    verbs = {command.name or command.callback.__name__ for command in program().registered_commands if command.callback}
    assert verbs <= {span.split()[0] for span in spans(2)}


def test_the_glossary_names_what_is_there() -> None:
    """A name with a capital is one of the package's, `exp.` is followed by what an Experiment has, and no word is
    explained twice without saying of what."""
    for name in spans(3):
        if re.fullmatch(r"[A-Z]\w+", name):
            assert name in experiment_manager.__all__
    for name in re.findall(r"\bexp\.(\w+)", GLOSSARY):
        assert hasattr(Experiment, name), name
    assert len(ROWS) == len({row[0] for row in ROWS})
    assert all(len(row) == 5 and row[1] for row in ROWS)
