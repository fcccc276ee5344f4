"""Event files as TensorBoard reads them: PLACE/PROJECT/train.7.1/events.out.tfevents..., one for each run.

A file bears its name once it is whole, and its mark is in the name: nothing can disagree with it. TensorBoard keeps
numbers in single precision.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from experiment_manager.analysis.export.runs import Mark, Notes, Point, Run
from experiment_manager.model import codec
from experiment_manager.store.files import clear_leftovers_in, discard, sync, temporary_name
from experiment_manager.text import as_word, value_text

DEFAULT: Final = "runs"
RESULT: Final = "result"
_FILE: Final = re.compile(r"events\.out\.tfevents\.[0-9]+\.experiment-manager\.([0-9a-f]+)-([0-9a-f]+)")


@contextmanager
def opened(project: str, place: str | None) -> Iterator["TensorBoard"]:
    """The event files of a project."""
    import tensorboardX  # noqa: F401 - it is missing now, and not in the middle

    yield TensorBoard(project, os.path.abspath(place or DEFAULT))


class TensorBoard:
    """A folder of runs, one folder for each."""

    def __init__(self, project: str, place: str) -> None:
        self.place = os.path.join(place, project)
        self.hint = f"tensorboard --logdir {as_word(self.place)}"

    def marks(self, experiment: str) -> Mapping[str, Mark]:
        """Of the runs that have one file of ours, its mark."""
        try:
            names = os.listdir(self.place)
        except FileNotFoundError:
            return {}
        found = {name: _ours(os.path.join(self.place, name)) for name in names if name.startswith(f"{experiment}.")}
        return {name: mark for name, files in found.items() if len(files) == 1 for mark in files.values()}

    def write(self, run: Run, points: Sequence[Point], notes: Notes) -> None:
        """The run has one file, with all that is known of it."""
        folder = os.path.join(self.place, run.name)
        os.makedirs(folder, exist_ok=True)
        clear_leftovers_in(folder)
        origin, digest = run.mark
        name = f"events.out.tfevents.{int(run.start):010d}.experiment-manager.{origin}-{digest}"
        temporary = temporary_name(os.path.join(folder, "run"))  # TensorBoard reads what has tfevents in its name
        try:
            _write(temporary, run, points)
            sync(temporary)
            os.replace(temporary, os.path.join(folder, name))
        except BaseException:
            discard(temporary)
            raise
        for other in _ours(folder).keys() - {name}:
            discard(os.path.join(folder, other))


def _ours(folder: str) -> dict[str, Mark]:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {name: Mark(*found.groups()) for name in names if (found := _FILE.fullmatch(name))}


def _write(path: str, run: Run, points: Sequence[Point]) -> None:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import RecordWriter
    from tensorboardX.summary import text

    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    writer = RecordWriter(path)

    def add(summary: Any, time: float, step: int) -> None:
        writer.write(Event(wall_time=time, step=step, summary=summary).SerializeToString())

    def scalars(values: Mapping[str, float]) -> Any:
        return Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])

    try:
        writer.write(Event(wall_time=run.start, file_version="brain.Event:2").SerializeToString())
        start, end = _hparams(run)
        add(start, run.start, 0)
        for name, word in run.about.items():
            add(text(name, word), run.end, 0)
        for point in points:
            add(scalars(point.values), point.time, point.step)
        last = points[-1].step if points else 0
        numbers = {
            f"{RESULT}/{name}": codec.as_float(value) for name, value in run.summary.items() if _is_scalar(value)
        }
        add(scalars(numbers), run.end, last)
        for name, value in run.summary.items():
            if not _is_scalar(value):
                add(text(f"{RESULT}/{name}", value_text(value)), run.end, last)
        add(end, run.end, last)
    finally:
        writer.close()


def _is_scalar(value: Any) -> bool:
    return codec.is_number(value) or isinstance(value, bool)


def _hparams(run: Run) -> tuple[Any, Any]:
    """The parameters, and how the run has ended, for the tab of hyperparameters."""
    from tensorboardX.proto.api_pb2 import Status
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
    from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata

    def summary(tag: str, content: Any) -> Any:
        data = SummaryMetadata.PluginData(plugin_name="hparams", content=content.SerializeToString())
        return Summary(value=[Summary.Value(tag=f"_hparams_/{tag}", metadata=SummaryMetadata(plugin_data=data))])

    begun = SessionStartInfo(start_time_secs=run.start)
    for name, value in {"state": run.state, **run.parameters}.items():
        if isinstance(value, bool):
            begun.hparams[name].bool_value = value
        elif codec.is_number(value):
            begun.hparams[name].number_value = codec.as_float(value)
        else:
            begun.hparams[name].string_value = value if isinstance(value, str) else value_text(value)
    status = Status.Value("STATUS_SUCCESS" if run.is_done else "STATUS_FAILURE")
    ended = SessionEndInfo(status=status, end_time_secs=run.end)
    return (
        summary("session_start_info", HParamsPluginData(session_start_info=begun, version=0)),
        summary("session_end_info", HParamsPluginData(session_end_info=ended, version=0)),
    )
