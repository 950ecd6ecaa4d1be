import os
from pathlib import Path

import pytest

from xfer.files import sync, sync_tree, write_atomically


@pytest.fixture
def calls(monkeypatch):
    """What reaches the disk, and what is renamed, in their order."""
    calls, fsync, rename = [], os.fsync, os.replace

    def note_sync(handle):
        calls.append(("sync", Path(f"/proc/self/fd/{handle}").readlink().name))
        fsync(handle)

    def note_rename(source, target):
        calls.append(("rename", Path(target).name))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_rename)
    return calls


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not say which file a handle is of")
def test_a_file_its_name_and_then_its_folder_reach_the_disk(tmp_path, calls):
    write_atomically(tmp_path / "a.json", b"1")
    (temporary, *rest) = calls
    assert temporary[1].startswith(".a.json.")
    assert rest == [("rename", "a.json"), ("sync", tmp_path.name)]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not say which file a handle is of")
def test_of_a_tree_all_files_come_before_the_folders_and_inner_before_outer(tmp_path, calls):
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "outer" / "inner" / "b").touch()
    (tmp_path / "a").touch()
    sync_tree(tmp_path)
    assert {name for _, name in calls[:2]} == {"a", "b"}
    assert [name for _, name in calls[2:]] == ["inner", "outer", tmp_path.name]


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "theirs").write_text("a thesis", encoding="utf-8")
    (tmp_path / "a.json").symlink_to(tmp_path / "theirs")
    write_atomically(tmp_path / "a.json", b"1")
    assert not (tmp_path / "a.json").is_symlink()
    assert (tmp_path / "theirs").read_text(encoding="utf-8") == "a thesis"


def test_what_cannot_reach_the_disk_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "nothing")
