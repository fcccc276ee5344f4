"""The errors that a person can mend: the whole tree, and nothing else.

    ExperimentManagerError            the one that `main` and the sweeper catch: message, exit code 2
    ├── FolderError                   no experiment there, not writable, a name that cannot be a folder
    │   ├── Overtaken                 somebody else has planned the same experiment meanwhile
    │   └── Unwritten                 what a job has left, or how it ended, cannot be written
    ├── ManifestError                 damaged, written by a newer version, or not to be read now
    │   └── DamagedManifest           what is there is no whole one
    ├── UnknownJob                    a job id that the experiment does not have
    ├── DuplicateJob                  these variables are there already
    ├── JobRefused                    outside the pass filter, running elsewhere, nothing to run it with
    │   ├── AlreadyCompleted          completed since it was handed over
    │   ├── NotOverYet                an earlier attempt runs, or its end is not seen yet
    │   ├── EndedSince                ended badly since it was handed over, in another launch
    │   └── UnreadableLaunch          nobody knows which jobs a launch has in hand
    ├── ConfigurationChanged          a job is there already and its configuration is another one now
    ├── ConfigurationDrifted          a job composes, or imports, something else than was submitted
    ├── UnreadableRecord              a file of ours that cannot be read, or holds something else
    │   └── NewerRecord               written by a newer version
    ├── UnstorableValue               a value that the manifest cannot hold
    ├── GridError                     a sweep that cannot be enumerated
    ├── FilterError                   a pass filter that cannot be read, or that nothing passes
    │   └── NoFilter                  no job has ever been chosen to run
    ├── OptionsError                  invalid SLURM options
    ├── FreezeError                   configuration or code that cannot be copied or named
    ├── SchedulerError                a scheduler refused, or could not be asked
    │   └── SlurmError                SLURM did
    ├── ResultError                   a result that is there already, or that is not there
    └── NotInstalled                  a library that an extra of this package brings

Those that the first interface of the library promised as `ValueError` are one, too.
"""

LOOK_AT_THE_DISK = "the disk or its server has a fault: look there, and repeat"


class ExperimentManagerError(Exception):
    """A sentence that says what is wrong, where, and the way out."""


class FolderError(ExperimentManagerError, ValueError):
    """The folder of an experiment is missing, not writable, or cannot bear that name."""


class Overtaken(FolderError):
    """Somebody else has published another manifest meanwhile: what was planned has to be planned again."""


class Unwritten(FolderError, OSError):
    """The system refuses to write what a job has left, or how it ended: an OSError as the system raised it, too."""

    def __init__(self, message: str, error: OSError) -> None:
        super().__init__(message)
        self.errno, self.strerror, self.filename = error.errno, error.strerror, error.filename

    def __str__(self) -> str:
        return str(self.args[0])


class ManifestError(ExperimentManagerError):
    """The manifest is damaged, a newer version of this package wrote it, or it cannot be read now."""


class DamagedManifest(ManifestError):
    """What is there is no whole manifest, and never will be."""


class UnknownJob(ExperimentManagerError, ValueError):
    """The experiment has no job with that id."""


class DuplicateJob(ExperimentManagerError, ValueError):
    """A job with the same variables is there already."""


class JobRefused(ExperimentManagerError, ValueError):
    """This job may not run here and now."""


class AlreadyCompleted(JobRefused):
    """This job has been completed since it was handed over: there is nothing left to run. `is_news`: nobody knew."""

    def __init__(self, message: str, *, is_news: bool = False) -> None:
        super().__init__(message)
        self.is_news = is_news


class NotOverYet(JobRefused):
    """An earlier attempt of this job is not over, as far as can be seen here: it may be in a moment."""


class EndedSince(JobRefused):
    """This job has ended badly in another launch since it was handed over: it is not run again without a word."""


class UnreadableLaunch(JobRefused):
    """The record of a launch is there and cannot be read: which jobs it has in hand is not known. `is_newer`: a newer
    version of this package can read it; `is_out_of_reach`: see UnreadableRecord."""

    def __init__(self, message: str, *, is_newer: bool = False, is_out_of_reach: bool = False) -> None:
        super().__init__(message)
        self.is_newer, self.is_out_of_reach = is_newer, is_out_of_reach


class ConfigurationChanged(ExperimentManagerError, ValueError):
    """A job that is there already would get another configuration."""


class ConfigurationDrifted(ExperimentManagerError):
    """A job composes, or imports, something else where it runs than was submitted."""


class UnreadableRecord(ExperimentManagerError, ValueError):
    """A record of ours is there and cannot be read; `why`, without the path. `is_out_of_reach`: a disk or its server
    has a fault, of which nothing follows for what is in the record."""

    def __init__(self, path: str, why: str, *, is_out_of_reach: bool = False) -> None:
        super().__init__(f"{path} cannot be read: {why}" + (f"; {LOOK_AT_THE_DISK}" if is_out_of_reach else ""))
        self.path, self.why, self.is_out_of_reach = path, why, is_out_of_reach

    def with_way_out(self, of_damage: str) -> str:
        """The sentence with what can be done: `of_damage`, unless nobody knows whether there is any, as it says itself.

        >>> UnreadableRecord("/a.json", "Stale file handle", is_out_of_reach=True).with_way_out("remove it")
        '/a.json cannot be read: Stale file handle; the disk or its server has a fault: look there, and repeat'
        """
        return str(self) if self.is_out_of_reach else f"{self}; {of_damage}"


class NewerRecord(UnreadableRecord):
    """A newer version of this package wrote this record: nothing of it is guessed at, and nothing takes its place."""

    def __init__(self, path: str, found: int, ours: int) -> None:
        super().__init__(path, f"it has format {found}, and this version reads {ours}")
        who = f"a newer version of Experiment Manager (format {found}, this one reads {ours})"
        self.args = (f"{path} was written by {who}; update it: pip install --upgrade hydra-experiment-manager",)


class UnstorableValue(ExperimentManagerError, ValueError):
    """A variable or configuration holds something that the manifest cannot store."""


class GridError(ExperimentManagerError, ValueError):
    """The sweep cannot be enumerated."""


class FilterError(ExperimentManagerError, ValueError):
    """The pass filter cannot be read, or nothing passes it."""


class NoFilter(FilterError):
    """No pass filter was ever saved."""


class OptionsError(ExperimentManagerError, ValueError):
    """invalid SLURM options."""


class FreezeError(ExperimentManagerError):
    """Configuration sources or code cannot be frozen, or a path cannot be handed to Hydra."""


class SchedulerError(ExperimentManagerError):
    """A scheduler refused, or could not be asked; `words` are its own. A doubtful order may have been carried out."""

    def __init__(self, message: str, *, words: str = "", is_doubtful: bool = False) -> None:
        super().__init__(message)
        self.words, self.is_doubtful = words, is_doubtful


class SlurmError(SchedulerError):
    """SLURM refused, or could not be asked."""


class ResultError(ExperimentManagerError, ValueError):
    """A result is there already, or missing, or unreadable."""


class NotInstalled(ExperimentManagerError):
    """A library is missing that an extra of this package brings."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'hydra-experiment-manager[{extra}]'")
