"""Frozen copies: all YAML that Hydra would see, and what is small beside it, once per content."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from experiment_manager.errors import FreezeError
from experiment_manager.hydra.frozen_config import LARGEST_BESIDE_BYTES, LARGEST_BYTES, Origin, freeze
from experiment_manager.model.records import Source
from experiment_manager.store.layout import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "experiments", "train")
    os.makedirs(folder.path)
    return folder


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    conf = tmp_path / "conf"
    write(conf, {"config.yaml": "seed: 1", "algorithm/TD3.yaml": "tau: 0.1"})
    return conf


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


def files_of(directory: str | Path) -> dict[str, str]:
    """Every file below a directory; links are not followed: a copy has none."""
    root = Path(directory)
    found = [Path(path) / name for path, _, names in os.walk(root) for name in names]
    assert not any(path.is_symlink() for path in found)
    return {str(path.relative_to(root)): path.read_text() for path in found}


def main(directory: Path) -> Origin:
    return Origin("main", f"file://{directory}", str(directory))


def frozen(folder: Folder, directory: Path) -> dict[str, str]:
    """The files in the frozen copy of one directory."""
    (source,) = freeze(folder, [main(directory)])
    assert source.frozen
    return files_of(folder.join(source.path))


def stamps(directory: str) -> dict[str, int]:
    return {path: os.stat(path).st_mtime_ns for path, _, _ in os.walk(directory)}


def test_yaml_is_copied(folder: Folder, conf: Path) -> None:
    """Files that end in .yaml or .yml are copied to the letter, at any depth; code and hidden folders are not."""
    write(
        conf,
        {
            "a/b/c.yml": "x: ü\r\n# the end",
            "empty.yaml": "",
            "folder.yaml/in.yaml": "y: 1",
            "space d/ä #?.yaml": "z: 1",
        },
    )
    (conf / "a/b/c.yml").write_bytes(b"x: \xff\r\n")
    write(conf, {"data/notes.txt": "", "train.py": "", "data/x.yaml.bak": "", "data/a.YAML~": ""})
    write(conf, {".git/config.yaml": "", ".hydra/config.yaml": "", "algorithm/.ipynb_checkpoints/TD3.yaml": ""})
    (source,) = freeze(folder, [main(conf)])
    copies = {
        str(path.relative_to(folder.join(source.path)))
        for path in Path(folder.join(source.path)).rglob("*.y*")
        if path.is_file()
    }
    assert {
        *("config.yaml", "algorithm/TD3.yaml", "a/b/c.yml", "empty.yaml", "folder.yaml/in.yaml", "space d/ä #?.yaml"),
    } == copies
    assert b"x: \xff\r\n" == Path(folder.join(source.path, "a/b/c.yml")).read_bytes()
    every = [name for _, _, names in os.walk(folder.join(source.path)) for name in names]
    assert 6 == len(every)


def test_sources_come_in_order_and_are_relative(folder: Folder, conf: Path, tmp_path: Path) -> None:
    """Each origin has its own copy, in the order given; what is no directory is named as it is, and not frozen."""
    for number in (1, 2):
        write(tmp_path / f"extra{number}", {"db/x.yaml": f"n: {number}"})
    origins = [
        main(conf),
        Origin("command-line", "/cd", str(tmp_path / "extra1")),
        Origin("searchpath", "pkg://other.conf", None),
        Origin("searchpath", "file:///b", str(tmp_path / "extra2")),
        Origin("searchpath", "file:///a", str(tmp_path / "extra1")),
    ]
    sources = freeze(folder, origins)
    assert [origin.provider for origin in origins] == [source.provider for source in sources]
    assert Source("searchpath", "pkg://other.conf", False) == sources[2]
    assert [True, True, False, True, True] == [source.frozen for source in sources]
    copies = [files_of(folder.join(source.path)) for source in sources if source.frozen]
    both = [{"db/x.yaml": f"n: {number}"} for number in (1, 2)]
    assert [{"config.yaml": "seed: 1", "algorithm/TD3.yaml": "tau: 0.1"}, both[0], both[1], both[0]] == copies
    assert not any(os.path.isabs(source.path) for source in sources if source.frozen)
    assert 4 == len({source.path for source in sources if source.frozen})


def test_nothing_to_copy(folder: Folder) -> None:
    """Origins that are all no directories leave nothing in the folder."""
    assert (Source("main", "pkg://app.conf", False),) == freeze(folder, [Origin("main", "pkg://app.conf", None)])
    assert () == freeze(folder, [])
    assert [] == os.listdir(folder.path)


def test_what_is_small_beside_yaml_is_copied(
    folder: Folder, conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of configurations has its small files of any kind in the copy, and those that are left out are named;
    in the folder of a program only what lies beside YAML is taken, and that without a word."""
    write(conf, {"__init__.py": "", "prompts/one.txt": "hello", ".hidden": "", "algorithm/table.csv": "1,2"})
    (conf / "weights.bin").write_bytes(bytes(LARGEST_BESIDE_BYTES + 1))
    expected = {"config.yaml", "algorithm/TD3.yaml", "prompts/one.txt", "algorithm/table.csv"}
    assert expected == set(frozen(folder, conf))
    assert f"{conf / 'weights.bin'}: not YAML and not small" in capsys.readouterr().err
    conf.rename(tmp_path / "program")
    write(tmp_path / "program", {"train.py": "", "data/many.bin": ""})
    assert expected - {"prompts/one.txt"} == set(frozen(folder, tmp_path / "program"))
    assert "" == capsys.readouterr().err


def test_same_content_is_the_same_folder(folder: Folder, conf: Path, tmp_path: Path) -> None:
    """Frozen again, from here or from a copy of it, the content is where it was, and nothing is written."""
    first = freeze(folder, [main(conf)])
    before = stamps(folder.path)
    write(conf, {"train.py": "no configuration", ".hidden/x.yaml": ""})
    os.utime(conf / "config.yaml")
    assert first == freeze(folder, [main(conf)])
    write(tmp_path / "copy", {"algorithm/TD3.yaml": "tau: 0.1", "config.yaml": "seed: 1"})
    assert first[0].path == freeze(folder, [main(tmp_path / "copy")])[0].path
    assert before == stamps(folder.path)


def rename(conf: Path) -> None:
    (conf / "algorithm/TD3.yaml").rename(conf / "algorithm/TD4.yaml")


def move(conf: Path) -> None:
    (conf / "algorithm/TD3.yaml").rename(conf / "TD3.yaml")


def swap(conf: Path) -> None:
    write(conf, {"config.yaml": "tau: 0.1", "algorithm/TD3.yaml": "seed: 1"})


@pytest.mark.parametrize(
    "change",
    [
        lambda conf: write(conf, {"config.yaml": "seed: 2"}),
        lambda conf: write(conf, {"config.yaml": "seed: 1\n"}),
        lambda conf: write(conf, {"new.yaml": ""}),
        lambda conf: (conf / "config.yaml").unlink(),
        rename,
        move,
        swap,
    ],
)
def test_changed_content_is_another_folder(folder: Folder, conf: Path, change: "object") -> None:
    """Any change of a name or a byte makes another folder; what was frozen before stays as it was."""
    (first,) = freeze(folder, [main(conf)])
    before = files_of(folder.join(first.path))
    assert callable(change)
    change(conf)
    (second,) = freeze(folder, [main(conf)])
    assert first.path != second.path
    assert before == files_of(folder.join(first.path))
    assert files_of(conf) == files_of(folder.join(second.path))


def test_a_copy_is_not_to_be_edited_and_one_that_was_is_mended(
    folder: Folder, conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody may write to its files; who does all the same changes no later sweep: before it is used again, a copy is
    what its name says, byte by byte, without what was put beside it."""
    write(conf, {"notes.txt": "of the model"})
    (source,) = freeze(folder, [main(conf)])
    copy = Path(folder.join(source.path))
    assert {0} == {path.stat().st_mode & 0o333 for path in copy.rglob("*") if path.is_file()}
    freeze(folder, [main(conf)])
    assert not capsys.readouterr().err

    (copy / "config.yaml").unlink()
    write(copy, {"config.yaml": "seed: 2", "algorithm/DDPG.yaml": ""})
    (copy / "notes.txt").unlink()
    freeze(folder, [main(conf)])
    assert files_of(conf) == files_of(copy)
    assert {0} == {path.stat().st_mode & 0o333 for path in copy.rglob("*") if path.is_file()}
    assert "config.yaml" in (told := capsys.readouterr().err)
    assert "algorithm/DDPG.yaml" in told


@pytest.mark.parametrize("empty_first", [False, True])
def test_every_frozen_source_is_there(folder: Folder, conf: Path, tmp_path: Path, empty_first: bool) -> None:
    """Every source that is said to be frozen is a folder, also one without any YAML, and whatever was frozen before."""
    (tmp_path / "empty").mkdir()
    searched: list[Origin] = [Origin("searchpath", "file:///empty", str(tmp_path / "empty"))]
    calls: list[Iterable[Origin]] = [[main(conf)], [main(conf), *searched]]
    for origins in reversed(calls) if empty_first else calls:
        for source in freeze(folder, origins):
            assert source.frozen
            assert os.path.isdir(folder.join(source.path)), source


def test_boundaries_between_sources_count(folder: Folder, tmp_path: Path) -> None:
    """The same files shared out otherwise among the sources are another content."""
    write(tmp_path / "one", {"a.yaml": "1"})
    write(tmp_path / "two", {"a.yaml": "1"})
    origins = [main(tmp_path / "one"), Origin("command-line", "", str(tmp_path / "two"))]
    (tmp_path / "none").mkdir()
    others = [main(tmp_path / "none"), Origin("command-line", "", str(tmp_path / "two"))]
    assert freeze(folder, origins)[1].path != freeze(folder, others)[1].path


def test_links_to_files_and_folders_are_followed(folder: Folder, conf: Path, tmp_path: Path) -> None:
    """A linked file and a linked folder are copied as what they lead to."""
    write(tmp_path / "shared", {"db/mysql.yaml": "port: 1", "one.yaml": "x: 1"})
    (conf / "db").symlink_to(tmp_path / "shared" / "db")
    (conf / "one.yaml").symlink_to(tmp_path / "shared" / "one.yaml")
    (conf / "again.yaml").symlink_to("one.yaml")
    copies = frozen(folder, conf)
    assert ("port: 1", "x: 1", "x: 1") == (copies["db/mysql.yaml"], copies["one.yaml"], copies["again.yaml"])
    write(tmp_path / "shared", {"db/mysql.yaml": "port: 2"})
    assert "port: 2" == frozen(folder, conf)["db/mysql.yaml"]


def test_two_names_of_one_folder_are_both_copied(folder: Folder, conf: Path) -> None:
    """A group that is a link to another group is a group to Hydra, so both have their files, whatever their names."""
    for name in ("aaa", "zzz"):
        (conf / name).symlink_to("algorithm")
    copies = frozen(folder, conf)
    assert {"config.yaml", "algorithm/TD3.yaml", "aaa/TD3.yaml", "zzz/TD3.yaml"} == set(copies)


def test_the_config_folder_itself_may_be_a_link(folder: Folder, conf: Path, tmp_path: Path) -> None:
    """A link to the whole folder is the folder."""
    (tmp_path / "link").symlink_to(conf)
    assert frozen(folder, conf) == frozen(folder, tmp_path / "link")


def test_loop_of_links_ends(folder: Folder, conf: Path) -> None:
    """A link to a folder above, to itself, or round in a ring ends, and everything is there under its own name."""
    (conf / "algorithm" / "up").symlink_to("..")
    (conf / "self").symlink_to("self")
    (conf / "self.yaml").symlink_to("self.yaml")
    (conf / "x").mkdir()
    (conf / "y").mkdir()
    (conf / "x" / "y").symlink_to("../y")
    (conf / "y" / "x").symlink_to("../x")
    copies = frozen(folder, conf)
    assert {"config.yaml", "algorithm/TD3.yaml"} <= set(copies)
    assert {"seed: 1", "tau: 0.1"} == set(copies.values())


def test_dangling_links_and_odd_files_are_ignored(folder: Folder, conf: Path) -> None:
    """A link that leads nowhere, a pipe and a folder are no YAML files, whatever their names."""
    (conf / "gone.yaml").symlink_to("/nowhere/at/all.yaml")
    (conf / "gone").symlink_to("/nowhere")
    os.mkfifo(conf / "pipe.yaml")
    (conf / "folder.yml").mkdir()
    assert {"config.yaml", "algorithm/TD3.yaml"} == set(frozen(folder, conf))


def test_experiment_inside_the_config_folder_is_skipped(conf: Path) -> None:
    """An experiment that lies in the config folder is not part of the configuration: freezing again finds the same."""
    folder = Folder(conf / "experiments", "train")
    write(Path(folder.path), {"jobs/0/out.yaml": "", "launches/0001/multirun.yaml": ""})
    first = freeze(folder, [main(conf)])
    assert {"config.yaml", "algorithm/TD3.yaml"} == set(files_of(folder.join(first[0].path)))
    assert first == freeze(folder, [main(conf)])


def test_a_config_may_be_called_multirun(folder: Folder, conf: Path) -> None:
    """What is beside it is copied, and it is, also where it sets options of Hydra's; a folder that Hydra has swept into
    is none of the configuration."""
    options = {"mode/multirun.yaml": "x: 1\n", "kind/multirun.yaml": "# @package _global_\nhydra:\n  mode: MULTIRUN\n"}
    write(conf, {**options, "mode/single.yaml": "x: 2\n", "kind/single.yaml": ""})
    with initialize_config_dir(str(conf), version_base=None):
        loaded = GlobalHydra.instance().config_loader().load_configuration("config", [], RunMode.MULTIRUN)
    write(conf, {"swept/multirun.yaml": OmegaConf.to_yaml(loaded), "swept/0/out.yaml": ""})
    found = frozen(folder, conf)
    assert {*options, "mode/single.yaml", "kind/single.yaml"} <= set(found)
    assert not [name for name in found if name.startswith("swept")]


def test_other_experiments_inside_the_config_folder_are_skipped(conf: Path) -> None:
    """The whole experiments folder is no configuration: what another experiment does changes nothing here."""
    folder = Folder(conf / "experiments", "train")
    first = freeze(folder, [main(conf)])
    other = Folder(conf / "experiments", "other")
    freeze(other, [main(conf)])
    write(Path(other.path), {"launches/0001/multirun.yaml": "x: 1"})
    assert first == freeze(folder, [main(conf)])


def test_frozen_copy_can_be_frozen(folder: Folder, conf: Path, tmp_path: Path) -> None:
    """The frozen sources of another experiment are a directory like any other."""
    (source,) = freeze(folder, [main(conf)])
    other = Folder(tmp_path / "experiments", "other")
    assert files_of(conf) == frozen(other, Path(folder.join(source.path)))


def test_too_much_is_refused_and_nothing_is_left(folder: Folder, conf: Path) -> None:
    """More than a configuration can hold is refused with the folder's name and the way out; exactly as much is not."""
    small = sum(path.stat().st_size for path in conf.rglob("*.yaml"))
    (conf / "data.yaml").touch()
    os.truncate(conf / "data.yaml", LARGEST_BYTES - small + 1)
    with pytest.raises(FreezeError, match=r"64 MiB.*keep data out") as refused:
        freeze(folder, [main(conf)])
    assert str(conf) in str(refused.value)
    assert [] == os.listdir(folder.path)
    (conf / "data.yaml").rename(conf / "data.bin")
    assert {"config.yaml", "algorithm/TD3.yaml"} == set(frozen(folder, conf))
