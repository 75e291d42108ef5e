"""Files that are whole or not there, folders with links, zips that promise less than they hold."""

import os
import pathlib
import re
import shutil
import stat
import struct
import tempfile
import tracemalloc
import zipfile

import pytest

from spherekeras.errors import DataError
from spherekeras.files import atomic_path, check_target, files_below, read_member


def test_a_file_keeps_its_rights_and_a_new_one_has_the_usual(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "gallery.npz"
    for mode in (0o600, 0o640):
        path.touch()
        path.chmod(mode)
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"new")
        assert stat.S_IMODE(path.stat().st_mode) == mode and path.read_bytes() == b"new"
    with atomic_path(tmp_path / "other") as temporary:
        pass
    (tmp_path / "usual").touch()
    assert (tmp_path / "other").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("stem", ["脸" * 80, "a" * 247])
def test_a_name_as_long_as_names_may_be_is_written(tmp_path: pathlib.Path, stem: str) -> None:
    with atomic_path(tmp_path / f"{stem}.jpg") as temporary:
        assert temporary.suffix == ".jpg"
        temporary.write_bytes(b"crop")
    assert [path.name for path in tmp_path.iterdir()] == [f"{stem}.jpg"]


def test_a_link_stays_and_what_it_links_to_is_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "store").mkdir()
    link = tmp_path / "gallery.npz"
    link.symlink_to(tmp_path / "store" / "blob")
    for content in (b"first", b"second"):
        check_target(link)
        with atomic_path(link) as temporary:
            assert (temporary.suffix, temporary.parent) == (".npz", tmp_path / "store")
            temporary.write_bytes(content)
        assert link.is_symlink() and (tmp_path / "store" / "blob").read_bytes() == content
    assert len(list((tmp_path / "store").iterdir())) == 1


def test_folders_devices_and_pipes_are_no_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    reasons = {
        "folder": "it is a folder",
        "pipe": "it is a device or a pipe",
        "file/page.html": "Not a directory",
        "none/page.html": "its folder does not exist",
    }
    for name, reason in reasons.items():
        wanted = f"{tmp_path / name} cannot be written: {reason}. Name a file in a folder that ex"
        with pytest.raises(DataError, match=re.escape(wanted)):
            check_target(tmp_path / name)
    for name in ("folder", "pipe", "file/page.html"):
        with pytest.raises(OSError), atomic_path(tmp_path / name):
            pytest.fail("the work has begun")
    with pytest.raises(DataError, match="/dev/null cannot be written: it is a device or a pipe"):
        check_target("/dev/null")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    check_target(tmp_path / "page.html")
    check_target(tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "pipe"]


def test_links_are_followed_and_rings_end(tmp_path: pathlib.Path) -> None:
    (tmp_path / "store" / "deep").mkdir(parents=True)
    (tmp_path / "store" / "deep" / "1").touch()
    root = tmp_path / "root"
    (root / "Ann").mkdir(parents=True)
    (root / "Ann" / "2").symlink_to(tmp_path / "store" / "deep" / "1")
    (root / "Ann" / "gone").symlink_to(tmp_path / "nothing")
    (root / "Ann" / "self").symlink_to(root / "Ann" / "self")
    (root / "Bob").symlink_to(tmp_path / "store")
    (root / "Cid").symlink_to(tmp_path / "store" / "deep")
    (root / "Ann" / "ring").symlink_to(root)
    found = [path.relative_to(root).as_posix() for path in files_below(root)]
    assert found == ["Ann/2", "Ann/gone", "Ann/self", "Bob/deep/1", "Cid/1"]
    but = (root / "Bob" / "deep").resolve()
    left = [path.relative_to(root).as_posix() for path in files_below(root, but)]
    assert left == ["Ann/2", "Ann/gone", "Ann/self"]


def test_folders_that_may_not_be_listed_or_entered_are_told() -> None:
    root = pathlib.Path(tempfile.mkdtemp())  # not below pytest's, which is its user's alone
    user = os.geteuid()
    try:
        for name in ("ann/1", "bob/deep/1", ".kept/1"):
            (root / name).parent.mkdir(parents=True)
            (root / name).touch()
        for folder in (root, root / "ann", root / "bob" / "deep"):
            folder.chmod(0o755)
        for rights in (4, 1, 0):  # to list, to enter, none
            for folder, given in (("bob", rights), (".kept", 0)):
                (root / folder).chmod(0o700 | given if user == 0 else given << 6)
            if user == 0:  # to whom no folder is closed
                os.seteuid(65534)
            closed: list[pathlib.Path] = []
            assert list(files_below(root, closed=closed)) == [root / "ann" / "1"]
            assert sorted(closed) == [root / ".kept", root / "bob"]
            with pytest.raises(DataError, match="bob may not be listed, and what lies in it is"):
                list(files_below(root))
            os.seteuid(user)
    finally:
        os.seteuid(user)
        for folder in (root / "bob", root / ".kept"):
            folder.chmod(0o755)
        shutil.rmtree(root)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_is_not_inflated_beyond_what_it_promises(
    tmp_path: pathlib.Path, method: int
) -> None:
    path, real = tmp_path / "bomb.zip", 64 << 20
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.jpg", bytes(real))
    content = path.read_bytes()
    assert content.count(struct.pack("<L", real)) == 2  # of the member and of the directory
    path.write_bytes(content.replace(struct.pack("<L", real), struct.pack("<L", 1000)))
    with zipfile.ZipFile(path) as archive:
        [member] = archive.infolist()
        tracemalloc.start()
        try:
            with pytest.raises(zipfile.BadZipFile, match="CRC"):
                read_member(archive, member)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    if method == zipfile.ZIP_DEFLATED:
        assert peak < 4 << 20
    assert os.path.getsize(path) < 1 << 20


def test_a_whole_member_is_read(tmp_path: pathlib.Path) -> None:
    content = os.urandom(300_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", content)
        archive.writestr("empty", b"")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert read_member(archive, archive.getinfo("a")) == content
        assert read_member(archive, archive.getinfo("empty")) == b""
