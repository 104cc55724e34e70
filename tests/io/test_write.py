"""A file is replaced as a whole or not at all, whatever stops the writing."""

import os
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowdim.errors import InputError
from lowdim.io.write import atomic_open, atomic_write, check_writable


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.one_of(st.binary(), st.text(st.characters(exclude_categories=["Cs"]))))
def test_round_trip_leaves_one_file(tmp_path, data):
    atomic_write(tmp_path / "x", data)
    assert (tmp_path / "x").read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError, SystemExit])
def test_what_stops_the_writing_leaves_the_old_file(tmp_path, stop):
    atomic_write(tmp_path / "x", "old")

    def write():
        with atomic_open(tmp_path / "x") as file:
            file.write(b"half of the ne")
            file.flush()
            raise stop

    with pytest.raises(stop):
        write()
    assert (tmp_path / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_trouble_with_another_file_keeps_its_own_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_open(tmp_path / "x"):
        (tmp_path / "missing").read_bytes()
    assert os.listdir(tmp_path) == []


def test_readers_see_the_old_file_until_the_end(tmp_path):
    atomic_write(tmp_path / "x", "old")
    with atomic_open(tmp_path / "x") as file:
        file.write(b"new")
        assert (tmp_path / "x").read_text() == "old"
    assert (tmp_path / "x").read_text() == "new"


def test_permissions_are_kept_and_links_followed(tmp_path):
    atomic_write(tmp_path / "x", "old")
    fresh = (tmp_path / "x").stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    assert fresh == 0o666 & ~mask
    (tmp_path / "x").chmod(0o640)
    (tmp_path / "link").symlink_to(tmp_path / "x")
    atomic_write(tmp_path / "link", "new")
    assert (tmp_path / "x").read_text() == "new"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "link").is_symlink()


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match=r"No such file or directory"):
        atomic_write(tmp_path / "missing" / "x", "data")
    with pytest.raises(InputError, match="not a regular file"):
        atomic_write(tmp_path, "data")
    with pytest.raises(InputError, match="not a regular file"):
        atomic_write("/dev/null", "data")
    with pytest.raises(InputError, match="File name too long"):
        atomic_write(tmp_path / ("x" * 300), "data")
    assert os.listdir(tmp_path) == []


def test_check_writable_makes_the_folder_and_leaves_nothing(tmp_path):
    folder = check_writable(tmp_path / "a" / "b")
    assert folder == tmp_path / "a" / "b"
    assert os.listdir(folder) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write to the folder"):
        check_writable(tmp_path / "file")
    with pytest.raises(InputError, match="cannot write to the folder"):
        check_writable(tmp_path / "file" / "below")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root with the right to mount")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def write_by_pieces(path, n, piece):
    with atomic_open(path) as file:
        for _ in range(n):
            file.write(piece)


def test_a_full_disk_leaves_the_old_file_and_says_how_much_is_missing(small_disk):
    atomic_write(small_disk / "x", "old")
    with pytest.raises(InputError, match=r"disk full .*x: needs 97\.7 KiB, 60\.0 KiB free"):
        atomic_write(small_disk / "x", bytes(100_000))
    with pytest.raises(InputError, match=r"disk full .*x: 60\.0 KiB free"):
        write_by_pieces(small_disk / "x", 100, bytes(1000))
    assert (small_disk / "x").read_text() == "old"
    assert os.listdir(small_disk) == ["x"]
    atomic_write(small_disk / "x", bytes(50_000))
    assert (small_disk / "x").stat().st_size == 50_000


def test_a_folder_that_may_not_be_written(small_disk):
    atomic_write(small_disk / "x", "old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(InputError, match="Read-only file system"):
        check_writable(small_disk)
    with pytest.raises(InputError, match="Read-only file system"):
        atomic_write(small_disk / "x", "new")
    assert (small_disk / "x").read_text() == "old"
