"""Files and folders appear whole or not at all."""

import errno
import fcntl
import os
import stat
import tempfile

import pytest

from dpt_jax import files
from dpt_jax.files import atomic_folder, atomic_write


def test_a_file_appears_only_when_the_block_has_ended(tmp_path):
    path = tmp_path / "made" / "on" / "demand.json"
    with atomic_write(path) as temporary:
        temporary.write_text("{}")
        assert not path.exists()
        assert temporary.parent == path.parent and temporary.suffix == ".json"
    assert path.read_text() == "{}"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "prompt.npy"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_permissions_of_an_ordinary_one(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    with atomic_write(tmp_path / "atomic"):
        pass
    assert stat.S_IMODE((tmp_path / "atomic").stat().st_mode) == stat.S_IMODE(
        ordinary.stat().st_mode
    )


def test_a_folder_appears_whole_and_takes_the_place_of_an_empty_one(tmp_path):
    path = tmp_path / "backbone"
    path.mkdir()
    with atomic_folder(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a").write_text("1")
        assert not any(path.iterdir())
    assert (path / "inner" / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_nothing_behind(tmp_path):
    with pytest.raises(OSError, match="disk"), atomic_folder(tmp_path / "new") as temporary:
        (temporary / "a").write_text("1")
        raise OSError("disk full")
    assert not any(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_never_replaced(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "kept").write_text("1")
    with pytest.raises(FileExistsError, match="run"), atomic_folder(tmp_path / "run"):
        pytest.fail("the block must not run")
    assert (tmp_path / "run" / "kept").exists()


@pytest.mark.parametrize("swaps", [True, False], ids=["swap", "no swap"])
def test_a_folder_takes_the_place_of_another_and_nothing_of_that_stays(
    tmp_path, monkeypatch, swaps
):
    if not swaps:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    path = tmp_path / "prompt"
    for name in ("old", "new"):
        with atomic_folder(path, replace=True) as temporary:
            (temporary / name).write_text(name)
            assert not path.exists() or [p.name for p in path.iterdir()] == ["old"]
    assert [p.name for p in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_the_system_swaps_two_folders_or_says_that_it_cannot(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    swapped = files._exchange(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "one" / "two").exists() == swapped
    with pytest.raises(OSError) as error:
        files._exchange(tmp_path / "one", tmp_path / "gone")
    assert error.value.errno == errno.ENOENT


def test_the_next_writer_clears_what_a_killed_one_left_and_nothing_else(tmp_path):
    left = tmp_path / ".prompt.tmp-killed.npy"
    left.write_text("half")
    others = [tmp_path / name for name in (".other.tmp-x.npy", ".prompt.tmp-x.npz", "prompt.tmp-x")]
    for other in others:
        other.touch()
    with atomic_write(tmp_path / "prompt.npy") as mine:
        mine.write_text("a")
        # One that still writes keeps its file.
        with atomic_write(tmp_path / "prompt.npy") as theirs:
            theirs.write_text("b")
        assert mine.exists()
    assert (tmp_path / "prompt.npy").read_text() == "a"
    assert {p.name for p in tmp_path.iterdir()} == {"prompt.npy", *(p.name for p in others)}


def test_a_run_that_begins_clears_what_killed_writers_left_and_not_what_a_living_one_writes(
    tmp_path,
):
    (tmp_path / "points").mkdir()
    (tmp_path / "points" / ".prompt.tmp-killed.npy").write_text("half")
    (tmp_path / ".folder.tmp-killed").mkdir()
    (tmp_path / ".folder.tmp-killed" / "part").write_text("half")
    with atomic_write(tmp_path / "points" / "answers.jsonl") as answers:
        answers.write_text("hours of answers")
        files.clear_unfinished(tmp_path)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")} == {
        "points",
        "points/answers.jsonl",
    }
    assert (tmp_path / "points" / "answers.jsonl").read_text() == "hours of answers"


def test_a_file_that_another_writer_is_clearing_is_left_to_it(tmp_path, monkeypatch):
    """It looks like a killed writer's between its making and its lock."""
    made, held = [], []

    def make(**names):
        handle, name = tempfile.mkstemp(**names)
        made.append(name)
        if not held:
            fcntl.flock(handle, fcntl.LOCK_EX)
            held.append(handle)
        else:
            os.close(handle)
            # The other one goes on.
            os.remove(made[0])
        return name

    monkeypatch.setattr(files, "_make_file", make)
    with files.atomic_write(tmp_path / "result") as temporary:
        temporary.write_text("whole")
    os.close(held[0])
    assert len(made) == 2 and [path.name for path in tmp_path.iterdir()] == ["result"]
