"""Presets from a server: whatever it does, the cache holds a whole preset or none."""

import collections
import contextlib
import hashlib
import http.server
import io
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spherekeras import cli, hosting, presets, zoo
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import PresetError
from spherekeras.presets import PresetConfig

ROOT = pathlib.Path(hosting.__file__).parent.parent
FAULTS = (
    "cut", "reset", "corrupt", "stall", "long", "short", "no range", "endless", "404", "500",
    "302", "302 loop", "302 ftp", "changed", "wrong range", "lying range", "416", "garbage",
    "silent", "other length", "odd etag", "drip", "page", "called a page",
    "chunk drip", "trailers", "continue", "escapes",
)  # fmt: skip


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by path; `fault` names what goes wrong with the next request."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.fault: Callable[[str], str] = lambda path: ""
        self.requests: list[tuple[str, str, str]] = []  # path, Range, fault
        self.sent: collections.Counter[str] = collections.Counter()
        self.pause = 0.0  # seconds between blocks
        self.heard = 0  # pieces of an endless answer that found a listener
        self.etags = True
        self.stopping = threading.Event()
        self.random = random.Random(0)

    def handle_error(self, request: Any, address: Any) -> None:
        """A client that hangs up is what these tests are about."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        server, path = self.server, self.path
        fault = server.fault(path)
        asked = self.headers.get("Range", "")
        server.requests.append((path, asked, fault))
        path = path.removeprefix("/moved")
        if fault == "silent":
            server.stopping.wait(0.5)
            return
        if fault == "drip":  # headers without an end, each byte in time
            with contextlib.suppress(OSError):
                self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
                while not server.stopping.wait(0.02):
                    self.wfile.write(b"a")
            return
        if fault in ("chunk drip", "trailers", "continue"):  # as long as the client hears it
            begin, more = {
                "chunk drip": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"x"),
                "trailers": (
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
                    b"x: y\r\n",
                ),
                "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
            }[fault]
            with contextlib.suppress(OSError):
                self.wfile.write(begin)
                while not server.stopping.wait(0.01):
                    self.wfile.write(more)
                    server.heard += 1
            return
        if fault == "escapes":
            self.wfile.write(b"\x1b[2J\x1b]0;owned\x07 All good: preset installed\r\n\r\n")
            return
        if fault == "page":
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(b"<html>Please log in.</html>")
            return
        if fault == "garbage":
            self.wfile.write(b"\x00\x01 no HTTP\r\n\r\n")
            return
        if fault in ("404", "500", "416") or path not in server.files:
            self.send_error(int(fault or 404))
            return
        if fault.startswith("302"):
            target = {"302 loop": self.path, "302 ftp": "ftp://127.0.0.1/x"}.get(fault)
            self.send_response(302)
            self.send_header("Location", target or "/moved" + path)
            self.end_headers()
            return
        data = server.files[path]
        if fault == "changed":
            data = bytes(reversed(data))
        etag = f'"{hashlib.sha256(data).hexdigest()[:8]}"'
        span = re.fullmatch(r"bytes=(\d+)-", asked)
        version = self.headers.get("If-Range", etag)
        begin = int(span[1]) if span and version == etag and fault != "no range" else 0
        if begin and begin >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        body = data[begin:]
        fault = fault if body else ""
        if begin:
            shown = begin + 1 if fault == "wrong range" else begin
            self.send_header("Content-Range", f"bytes {shown}-{len(data) - 1}/{len(data)}")
        if fault == "lying range":
            body = data[: len(body)]
        if fault == "corrupt":
            place = server.random.randrange(len(body))
            body = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        stated = {"long": len(body) + 9, "short": len(body) - 1, "other length": 7}.get(fault)
        if fault != "endless":
            self.send_header("Content-Length", str(stated if stated is not None else len(body)))
        if fault == "called a page":
            self.send_header("Content-Type", "text/html")
        if server.etags:
            self.send_header("ETag", "\x01\n \xff" if fault == "odd etag" else etag)
        self.end_headers()
        if fault in ("cut", "reset", "stall"):
            body = body[: server.random.randrange(len(body))]
        for place in range(0, len(body), 1 << 15):
            block = body[place : place + (1 << 15)]
            self.wfile.write(block)
            server.sent[path] += len(block)
            if server.pause:
                time.sleep(server.pause)
        if fault == "stall":
            server.stopping.wait(0.5)
        if fault == "endless":
            for _ in range(1000):
                self.wfile.write(bytes(1 << 16))
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.stopping.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    for name in list(os.environ):
        if name.startswith("SPHEREKERAS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SPHEREKERAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hosting, "_PAUSE", 0.0)


def host(server: Server, name: str, files: dict[str, bytes]) -> dict[str, Any]:
    """Puts a preset on the server; returns its entry of the manifest."""
    entry: dict[str, Any] = {"weights_licence": "CC0-1.0.", "terms": "drawn faces.", "files": {}}
    for file, data in files.items():
        path = f"/zoo/{name}/{file}"
        server.files[path] = data
        digest = hashlib.sha256(data).hexdigest()
        entry["files"][file] = {"url": server.url + path, "size": len(data), "sha256": digest}
    return entry


def big(server: Server, name: str = "big", size: int = 1 << 20) -> dict[str, Any]:
    data = random.Random(1).randbytes(size)
    return host(server, name, {"config.json": b"{}", "model.weights.h5": data})


def assert_whole(server: Server, folder: pathlib.Path, entry: dict[str, Any]) -> None:
    for file, stated in entry["files"].items():
        path = urllib.parse.urlsplit(stated["url"]).path
        assert (folder / file).read_bytes() == server.files[path]
    assert {path.name for path in folder.iterdir()} == {*entry["files"], hosting.SUMS}
    sums = [f"{entry['files'][f]['sha256']}  {f}\n" for f in sorted(entry["files"])]
    assert (folder / hosting.SUMS).read_text() == "".join(sums)


def set_manifest(
    monkeypatch: pytest.MonkeyPatch, path: pathlib.Path, **entries: dict[str, Any]
) -> pathlib.Path:
    path.write_text(json.dumps({"format": 1, "presets": entries}))
    monkeypatch.setenv("SPHEREKERAS_MANIFEST", str(path))
    return path


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A cache in memory where the system has such a folder: hundreds of fsyncs take seconds."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        monkeypatch.setenv("SPHEREKERAS_CACHE", name)
        yield pathlib.Path(name)


def test_two_hundred_rounds_of_a_hostile_server(
    server: Server,
    memory: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: collections.Counter[str] = collections.Counter()
    for seed in range(200):
        dice = random.Random(seed)
        server.random = random.Random(seed)
        server.etags = dice.random() < 0.7
        likely = dice.choice((0.2, 0.5, 0.8))
        chosen = dice.sample(FAULTS, 4)

        def fault(path: str, dice: Any = dice, likely: float = likely, of: Any = chosen) -> str:
            return dice.choice(of) if dice.random() < likely else ""

        sizes = {
            "config.json": 40,
            "README.md": dice.choice((0, 900)),
            "model.weights.h5": dice.randint(2, 90_000),
        }
        files = {file: dice.randbytes(size) for file, size in sizes.items()}
        entry = host(server, f"preset{seed}", files)
        folder = memory / "presets" / f"preset{seed}"
        server.fault = fault
        monkeypatch.setattr(hosting, "_TIMEOUT", 0.04)
        for _ in range(3):
            try:
                assert hosting.fetch(f"preset{seed}", entry) == folder
                assert_whole(server, folder, entry)
                seen["fetched"] += 1
                break
            except PresetError:
                seen["refused"] += 1
                assert not folder.exists()
            for path in memory.glob("partial/*/*/preset/*"):
                if dice.random() < 0.2:  # a crash of the machine may leave anything
                    path.write_bytes(dice.randbytes(dice.randint(0, 2 * path.stat().st_size)))
        server.fault = lambda path: ""
        monkeypatch.setattr(hosting, "_TIMEOUT", 10.0)
        hosting.fetch(f"preset{seed}", entry)
        assert_whole(server, folder, entry)
        assert not list(memory.glob("partial/preset*"))
    met = collections.Counter(fault for _, _, fault in server.requests)
    assert min(seen["fetched"], seen["refused"]) > 40, seen
    assert all(met[fault] >= 5 for fault in FAULTS), met
    assert sum(asked != "" for _, asked, _ in server.requests) > 30
    capsys.readouterr()


def in_a_process(manifest: pathlib.Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"from spherekeras import hosting\n"
         f"print(hosting.fetch({name!r}, hosting.manifest()[{name!r}]))"],
        env={**os.environ, "SPHEREKERAS_MANIFEST": str(manifest)},
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited for 20 s")


def test_a_killed_download_goes_on_in_the_process_that_waited(
    server: Server, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = big(server, size=4 << 20)
    manifest = set_manifest(monkeypatch, tmp_path / "m.json", big=entry)
    server.pause = 0.02  # 1.6 MB/s
    first = in_a_process(manifest, "big")
    part = tmp_path / "cache" / "partial" / "big"

    def brought() -> int:
        return sum(path.stat().st_size for path in part.glob("*/preset/model.weights.h5"))

    wait_for(lambda: brought() > 1 << 20)
    second = in_a_process(manifest, "big")
    assert second.stderr is not None
    assert second.stderr.readline() == "Another process downloads big; waiting for it.\n"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    server.pause = 0.0
    kept = brought()
    assert (1 << 20) < kept < (4 << 20)
    before = server.sent["/zoo/big/model.weights.h5"]
    output, _ = second.communicate(timeout=20)
    assert second.returncode == 0 and output.strip() == str(tmp_path / "cache" / "presets" / "big")
    assert_whole(server, tmp_path / "cache" / "presets" / "big", entry)
    assert server.requests[-1][1] == f"bytes={kept}-"
    assert server.sent["/zoo/big/model.weights.h5"] - before <= (4 << 20) - kept + (1 << 15)


def test_two_processes_at_once_download_once(
    server: Server, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = big(server)
    manifest = set_manifest(monkeypatch, tmp_path / "m.json", big=entry)
    server.pause = 0.02
    both = [in_a_process(manifest, "big") for _ in range(2)]
    for process in both:
        output, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors
        assert_whole(server, pathlib.Path(output.strip()), entry)
    assert len(server.requests) == 2  # the two files, each once


def faults(*wanted: str) -> Callable[[str], str]:
    rest = itertools.chain(wanted, itertools.repeat(""))
    return lambda path: next(rest) if path.endswith("h5") else ""


def test_a_changed_file_is_begun_anew(server: Server) -> None:
    entry = big(server)
    server.fault = faults("cut")
    right = server.files["/zoo/big/model.weights.h5"]

    def change(path: str, plan: Any = server.fault) -> str:
        fault = plan(path)
        if path.endswith("h5") and not fault:  # between the two requests the bytes change
            server.files[path] = right
        return fault

    server.files["/zoo/big/model.weights.h5"] = bytes(len(right))
    server.fault = change
    folder = hosting.fetch("big", entry)
    assert_whole(server, folder, entry)
    assert server.requests[-1][1] and server.sent["/zoo/big/model.weights.h5"] > len(right)
    assert len(server.requests) == 3  # the validator tells at once, not the checksum later


def test_without_validators_the_checksum_decides(server: Server) -> None:
    entry = big(server)
    server.etags = False
    server.fault = faults("cut", "corrupt")
    assert_whole(server, hosting.fetch("big", entry), entry)
    assert [asked != "" for _, asked, _ in server.requests] == [False, False, True, False]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("416", "the server answered 416; try 3 of 5"),
        ("wrong range", "other bytes than those asked for ('bytes "),
    ],
)
def test_a_server_that_cannot_go_on_is_asked_for_all(
    server: Server, second: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = big(server)
    server.fault = faults("cut", second)
    assert_whole(server, hosting.fetch("big", entry), entry)
    assert [asked != "" for _, asked, _ in server.requests] == [False, False, True, False]
    assert said in capsys.readouterr().err


def test_what_comes_beyond_the_stated_size_is_cut_off(server: Server) -> None:
    entry = big(server)
    server.fault = faults("endless")
    assert_whole(server, hosting.fetch("big", entry), entry)
    assert len(server.requests) == 2


@pytest.mark.parametrize("fault", ["drip", "chunk drip", "trailers", "continue"])
def test_an_answer_without_an_end_is_hung_up_on(
    server: Server, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = big(server)
    server.fault = lambda path: fault
    monkeypatch.setattr(hosting, "_TIMEOUT", 0.1)
    monkeypatch.setattr(hosting, "_TRIES", 2)
    threads, since = threading.active_count(), time.monotonic()
    with pytest.raises(PresetError, match="big was not downloaded: .* failed 2 times, lastly"):
        hosting.fetch("big", entry)
    assert time.monotonic() - since < 5
    wait_for(lambda: threading.active_count() <= threads)  # here and in the server: all hung up
    heard = server.heard
    time.sleep(0.1)
    assert server.heard == heard


def test_a_server_cannot_steer_the_terminal(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = big(server)
    server.fault = lambda path: "escapes"
    monkeypatch.setattr(hosting, "_TRIES", 2)
    with pytest.raises(PresetError) as told:
        hosting.fetch("big", entry)
    text = f"{told.value}{capsys.readouterr().err}"
    assert r"\x1b[2J\x1b]0;owned\x07 All good" in text
    assert all(sign.isprintable() or sign == "\n" for sign in text)


def test_a_preset_is_placed_in_one_step(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    def fail(*_: object) -> None:
        raise OSError("stopped")

    entry = big(server)
    with monkeypatch.context() as stopped:
        stopped.setattr(pathlib.Path, "rename", fail)
        with pytest.raises(PresetError, match="stopped"):
            hosting.fetch("big", entry)
    assert not (tmp_path / "cache" / "presets" / "big").exists()
    assert_whole(server, hosting.fetch("big", entry), entry)
    assert len(server.requests) == 2


def test_a_server_that_trickles_is_a_stalled_one(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = big(server, size=1 << 17)
    server.pause = 0.15
    monkeypatch.setattr(hosting, "_TIMEOUT", 0.25)
    monkeypatch.setattr(hosting, "_SLOWEST", 1 << 20)
    monkeypatch.setattr(hosting, "_TRIES", 1)
    with pytest.raises(PresetError, match=r"lastly because only [\d,]+ bytes came in 0.25 s"):
        hosting.fetch("big", entry)


@pytest.mark.parametrize(
    ("fault", "message", "requests"),
    [
        ("404", r"h5 answered 404\. Update spherekeras, or set SPHEREKERAS_MIRROR", 1),
        ("302 ftp", r"http or https alone\. Received: 'ftp://127.0.0.1/x'", 1),
        ("302 loop", "answered 302", 6),
        ("500", "failed 5 times, lastly because the server answered 500", 5),
        ("other length", "the server has 7 bytes, the manifest 1,048,576", 5),
        ("corrupt", "its bytes are not those of the manifest's SHA-256", 5),
        (
            "stall",
            r"nothing useful came for 0.1 s\. What has come is kept: `spherekeras zoo fetch big`",
            5,
        ),
        ("garbage", "the connection failed", 5),
        ("drip", r"the connection failed \(the answer's headers did not end in 0.2 s\)", 5),
        ("page", r"a web page \(text/html\) came in its place", 5),
        ("silent", "nothing useful came for 0.1 s", 5),
    ],
)
def test_a_fault_that_stays_is_named(
    server: Server,
    fault: str,
    message: str,
    requests: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
) -> None:
    monkeypatch.setattr(hosting, "_TIMEOUT", 0.1 if re.search("0.[12] s", message) else 5.0)
    server.fault = faults(*[fault] * 9)
    with pytest.raises(PresetError, match=message):
        hosting.fetch("big", big(server))
    assert sum(path.endswith("h5") for path, _, _ in server.requests) == requests
    assert not (tmp_path / "cache" / "presets").exists()


def test_a_file_that_the_server_calls_a_page_is_taken(server: Server) -> None:
    server.fault = lambda path: "called a page"
    assert_whole(server, hosting.fetch("big", big(server)), big(server))


def test_tries_wait_longer_and_longer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(hosting, "_PAUSE", 0.5)
    monkeypatch.setattr(hosting.time, "sleep", pauses.append)
    server.fault = faults("500", "500", "reset", "500")
    hosting.fetch("big", big(server))
    assert pauses == [0.5, 1.0, 2.0, 4.0]


def test_no_network_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    with Server() as gone:
        entry = big(gone)
    with pytest.raises(PresetError, match="Connection refused.*copy the preset's folder to") as e:
        hosting.fetch("big", entry)
    assert str(tmp_path / "cache" / "presets" / "big") in str(e.value)


def test_offline_takes_what_is_cached_and_names_what_is_not(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = big(server)
    monkeypatch.setenv("SPHEREKERAS_OFFLINE", "1")
    with pytest.raises(PresetError, match="big is not whole in the cache, and SPHEREKERAS_OFFLINE"):
        hosting.fetch("big", entry)
    assert not server.requests
    monkeypatch.setenv("SPHEREKERAS_OFFLINE", "False")
    folder = hosting.fetch("big", entry)
    monkeypatch.setenv("SPHEREKERAS_OFFLINE", "1")
    assert hosting.fetch("big", entry) == folder


def test_a_mirror_takes_the_place_of_the_host(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = big(server)
    for stated in entry["files"].values():
        stated["url"] = stated["url"].replace(server.url, "https://nowhere.invalid")
    server.files = {f"/deep{path}": data for path, data in server.files.items()}
    monkeypatch.setenv("SPHEREKERAS_MIRROR", f"{server.url}/deep/")
    folder = hosting.fetch("big", entry)
    assert (folder / "model.weights.h5").stat().st_size == 1 << 20
    monkeypatch.setenv("SPHEREKERAS_MIRROR", "file:///deep")
    with pytest.raises(PresetError, match="http or https alone. Received: 'file:///deep/zoo/"):
        hosting.fetch("other", entry)


def test_a_damaged_or_outdated_cache_is_renewed(server: Server) -> None:
    entry = big(server)
    folder = hosting.fetch("big", entry)
    (folder / "model.weights.h5").write_bytes(b"damaged")
    assert_whole(server, hosting.fetch("big", entry), entry)
    newer = host(server, "big", {"config.json": b"{}", "model.weights.h5": b"newer"})
    assert_whole(server, hosting.fetch("big", newer), newer)


def test_a_full_disk_is_told_before_and_while_it_fills(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    entry = big(server)
    with monkeypatch.context() as small:
        small.setattr(
            hosting.shutil, "disk_usage", lambda path: collections.namedtuple("U", "free")(9)
        )
        with pytest.raises(PresetError, match="No space left on device. Make room, or set SPHERE"):
            hosting.fetch("big", entry)
    assert not server.requests
    manifest = set_manifest(monkeypatch, tmp_path / "m.json", big=entry)
    limited = subprocess.run(
        [sys.executable, "-c",
         "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
         "from spherekeras import cli, hosting, errors\n"
         "try: hosting.fetch('big', hosting.manifest()['big'])\n"
         "except errors.PresetError as error: print(error)"],
        env={**os.environ, "SPHEREKERAS_MANIFEST": str(manifest)},
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "cannot be written to" in limited.stdout and "File too large" in limited.stdout
    assert_whole(server, hosting.fetch("big", entry), entry)
    assert server.requests[-1][1] == "bytes=300000-"


def test_a_cache_that_cannot_be_written_is_told(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPHEREKERAS_CACHE", str(tmp_path / "file"))
    with pytest.raises(PresetError, match="Not a directory. .*set SPHEREKERAS_CACHE"):
        hosting.fetch("big", big(server))


def test_a_terminal_shows_rate_and_time_left(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    server.fault = faults("cut", "500")
    with contextlib.redirect_stderr(Terminal()) as terminal:
        hosting.fetch("big", big(server))
    text = terminal.getvalue()
    head = "Downloading big, 1.0 MB. Licence of the weights: CC0-1.0. Training data: drawn faces.\n"
    assert text.startswith(head)
    assert "model.weights.h5: the server answered 500; try 3 of 5\n" in text
    assert re.search(r"\r1\.0/1\.0 MB  [\d.,]+ MB/s  0 s left +\n$", text), text


def test_the_cache_is_where_the_platform_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    assert hosting.cache() == tmp_path / "cache"
    monkeypatch.delenv("SPHEREKERAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert hosting.cache() == tmp_path / "spherekeras"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert hosting.cache() == tmp_path / "home" / ".cache" / "spherekeras"


FILE = {"url": "https://example.org/config.json", "size": 2, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"../up": {}}, "'../up' is a plain name"),
        ({"a": {"terms": ""}}, "it lacks 'weights_licence'"),
        ({"a": {"files": {"x": FILE}}}, "a has a config.json"),
        ({"a": {"files": {"config.json": FILE, "/etc/x": FILE}}}, "a//etc/x is a plain name"),
        ({"a": {"files": {"config.json": FILE, "..": FILE}}}, r"a/\.\. is a plain name"),
        ({"a": {"files": {"config.json": {**FILE, "url": "file:///x"}}}}, r"`url` is http\(s\)"),
        ({"a": {"files": {"config.json": {**FILE, "size": -1}}}}, "`size` is in bytes"),
        ({"a": {"files": {"config.json": {**FILE, "sha256": "ab"}}}}, "`sha256` is 64 digits"),
    ],
)
def test_a_manifests_fault_is_named(
    entries: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    stated = {"weights_licence": "", "terms": ""}
    full = {
        name: {**stated, **entry} if "files" in entry else entry for name, entry in entries.items()
    }
    path = set_manifest(monkeypatch, tmp_path / "m.json", **full)
    with pytest.raises(PresetError, match=f"^{path} is not a manifest of presets: .*{message}"):
        hosting.manifest()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "presets": 1}'])
def test_another_file_is_no_manifest(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "m.json").write_text(text)
    monkeypatch.setenv("SPHEREKERAS_MANIFEST", str(tmp_path / "m.json"))
    with pytest.raises(
        PresetError, match="is not a manifest of presets.*`spherekeras zoo manifest"
    ):
        hosting.manifest()


def test_the_packages_manifest_is_sound() -> None:
    assert isinstance(hosting.manifest(), dict)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """As after `pip install`: no zoo beside the package."""
    zoos = presets._zoos
    monkeypatch.setattr(presets, "_zoos", lambda: [z for z in zoos() if z.parent != ROOT])


def test_without_presets_the_way_to_some_is_told(
    bare: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    way = "No presets are here, nor can any be downloaded: they come with the repository. Set"
    monkeypatch.setattr(hosting, "_MANIFEST", ROOT / "spherekeras" / "manifest.json")
    with pytest.raises(PresetError, match=f"^Unknown preset 'sphere4': .*{way}"):
        presets.find_preset("sphere4")
    assert cli.main(["zoo", "list"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "The zoo is empty.\n" and printed.err.startswith(way)


def test_a_hosted_preset_is_listed_fetched_shown_checked_and_loaded(
    server: Server,
    bare: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = PresetConfig(
        "SphereFaceNet", {"depth": 4, "embedding_dim": 8, "input_shape": [112, 96, 3]},
        "sphereface_112x96", 112, 96, 1 / 128, 127.5,
    )  # fmt: skip
    metadata = {"weights_licence": "CC0-1.0", "terms": "Untrained."}
    lab = tmp_path / "lab"
    faces = FaceEmbedder(presets.build_backbone(config), config, metadata)
    folder = faces.save_preset(lab / "tiny")
    server.files = {f"/zoo/tiny/{p.name}": p.read_bytes() for p in folder.iterdir()}
    path = tmp_path / "manifest.json"
    for url in (
        "example.org/zoo",
        "https://example.org/my zoo",
        "https://example.org/zo\u00f6",
        "http://a b/zoo",
        "https://example.org/zoo?x=1",
        "https://example.org/zoo#f",
    ):
        told = f"`url` is where the.* Received: {re.escape(repr(url))}"
        with pytest.raises(PresetError, match=told):
            zoo.write_manifest(lab, url, path)
    (lab / "half").mkdir()
    (lab / "half" / "config.json").write_text("{}")
    with pytest.raises(PresetError, match=r"half/SHA256SUMS is missing"):
        zoo.write_manifest(lab, server.url, path)
    shutil.rmtree(lab / "half")
    shutil.copytree(folder, lab / "tiny 2")
    with pytest.raises(PresetError, match=r"tiny 2 cannot be served under this name\. Rename it"):
        zoo.write_manifest(lab, server.url, path)
    shutil.rmtree(lab / "tiny 2")
    with pytest.raises(PresetError, match="holds no preset"):
        zoo.write_manifest(folder, server.url, path)
    with pytest.raises(PresetError, match="nowhere is no folder. Give the one that holds the pres"):
        zoo.write_manifest(tmp_path / "nowhere", server.url, path)
    assert not path.exists()

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert cli.main(["zoo", *arguments]) == 0
        return capsys.readouterr().out

    run("manifest", str(lab), "--url", f"{server.url}/zoo/", "--out", str(path))
    monkeypatch.setenv("SPHEREKERAS_MANIFEST", str(path))
    with pytest.raises(PresetError, match=r"Unknown preset 'tyni'.*Did you mean 'tiny'\?"):
        presets.find_preset("tyni")
    [row] = json.loads(run("list", "ti*", "--json"))
    assert row["place"] == "to be fetched" and row["terms"] == "Untrained."
    assert "to be fetched" in run("list") and not server.requests
    assert cli.main(["zoo", "list", "sphere*"]) == 1
    assert "No preset's name fits 'sphere*'. Known presets: tiny." in capsys.readouterr().err
    assert cli.main(["zoo", "check"]) == cli.main(["zoo", "check", "t*"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "spherekeras zoo: To be fetched: tiny (`spherekeras zoo fetch NAME`)."
    assert "No name of a preset that is here fits 't*'. To be fetched: tiny" in told[1]
    cached = tmp_path / "cache" / "presets" / "tiny"
    assert cli.main(["zoo", "fetch", "sphere*"]) == 1
    assert "No preset's name fits 'sphere*'. Known presets: tiny." in capsys.readouterr().err
    assert run("fetch", "t*") == f"{cached}\n"
    assert [p.read_bytes() for p in sorted(cached.iterdir())] == [
        p.read_bytes() for p in sorted(folder.iterdir())
    ]
    count = len(server.requests)
    [row] = json.loads(run("list", "--json"))
    assert row["place"] == "cache" and row["weights_licence"] == "CC0-1.0"
    assert run("show", "t*") == run("show", "tiny") == (folder / "README.md").read_text() + "\n"
    assert run("check").startswith("good  tiny: files intact")
    assert presets.find_preset("tiny") == cached and len(server.requests) == count
    (cached / "README.md").write_text("changed")
    with pytest.raises(PresetError, match="`spherekeras zoo fetch tiny` mends it"):
        presets.check_files(presets.find_preset("tiny"))
    monkeypatch.delenv("SPHEREKERAS_MANIFEST")
    assert cli.main(["zoo", "fetch", "tiny"]) == 1
    assert "Set SPHEREKERAS_MANIFEST to the manifest that it came" in capsys.readouterr().err
    monkeypatch.setenv("SPHEREKERAS_MANIFEST", str(path))
    run("fetch", "tiny")
    shutil.rmtree(cached)
    assert FaceEmbedder.from_preset("tiny").folder == cached  # downloaded by its name alone


def test_a_bad_manifest_does_not_hide_a_damaged_preset(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "cache" / "presets" / "lame"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.setenv("SPHEREKERAS_MANIFEST", str(tmp_path / "none.json"))
    with pytest.raises(PresetError, match="lame/SHA256SUMS is missing .* Set SPHEREKERAS_MANIFEST"):
        presets.check_files(folder)
