"""Files and directories that are whole or absent, and locks, on their own."""

import errno
import os
import shutil
import socket
import subprocess
import sys

import pytest

from nemotron4_common import locks
from nemotron4_common.staging import staged_directory, write_file


def content_of(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def write(path, text="mine"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    write(tmp_path / "place/old")
    with staged_directory(tmp_path / "place", "dir", lambda name: name == "old") as new:
        write(new / "new")
        shutil.copytree(tmp_path / "place.partial", tmp_path / "kept")
    assert content_of(tmp_path / "place") == {"new": b"mine"}
    shutil.move(tmp_path / "kept", tmp_path / "place.partial")
    shutil.move(tmp_path / "place", tmp_path / "place.partial/old")
    with pytest.raises(KeyboardInterrupt), staged_directory(tmp_path / "place", "dir", lambda name: True):
        raise KeyboardInterrupt
    assert content_of(tmp_path) == {"place/new": b"mine"}


def test_two_processes_that_fill_one_directory_notice_each_other(tmp_path):
    with staged_directory(tmp_path / "place", "directory") as new:
        write(new / "a")
        with pytest.raises(ValueError) as error, staged_directory(tmp_path / "place", "directory"):
            pass
    assert str(error.value) == (
        f"directory ({tmp_path}/place): in use by process {os.getpid()} on {socket.gethostname()}: "
        "wait for it to end, or choose another directory"
    )
    assert content_of(tmp_path) == {"place/a": b"mine"}


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with pytest.raises(OSError) as error, locks.exclusive(tmp_path / "lock", "run.dir", tmp_path):
        pass
    assert str(error.value) == (
        f"run.dir ({tmp_path}): its file system has no locks (No locks available): "
        "mount it with locks, or choose another run.dir"
    )
    assert locks.holder(tmp_path / "lock") is None


def test_a_written_file_leaves_links_and_devices_as_they_are(tmp_path):
    write(tmp_path / "target", "old")
    (tmp_path / "link").symlink_to("target")
    write(tmp_path / "link.partial")
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert content_of(tmp_path) == {"target": b"new", "link": b"new", "link.partial": b"mine"}
    (tmp_path / "null").symlink_to("/dev/null")
    write_file(tmp_path / "null", b"new")
    assert os.path.realpath(tmp_path / "null") == "/dev/null"
    script = "from pathlib import Path; from nemotron4_common.staging import write_file; print('a', flush=True); "
    script += "write_file(Path('/dev/stdout'), b'new')"
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", script], stdout=out, check=True)
    assert (tmp_path / "out").read_bytes() == b"a\nnew"


def test_a_full_disk_is_named(tmp_path):
    (tmp_path / "result.json").symlink_to("/dev/full")
    with pytest.raises(OSError) as error:
        write_file(tmp_path / "result.json", b"x")
    assert str(error.value) == f"[Errno 28] No space left on device: '{tmp_path}/result.json'"
