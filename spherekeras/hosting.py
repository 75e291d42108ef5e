"""Presets that live elsewhere: named in a manifest, downloaded once, never half and never wrong.

The manifest is the root of trust: size and SHA-256 of every file stand in it, so any server, mirror
or redirect may bring the bytes. A preset grows in the cache's partial/, where an interrupted
download goes on, and is renamed into presets/ when every byte is proven.

- `SPHEREKERAS_MANIFEST`: path of a manifest to use in place of the package's.
- `SPHEREKERAS_MIRROR`: base URL that takes the place of scheme and host in the manifest's URLs.
- `SPHEREKERAS_CACHE`: the cache, by default `$XDG_CACHE_HOME/spherekeras` or ~/.cache/spherekeras.
- `SPHEREKERAS_OFFLINE=1`: nothing is downloaded ("", "0", "false", "no" and "off" allow it).
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from spherekeras.errors import PresetError
from spherekeras.files import atomic_path, sha256

SUMS = "SHA256SUMS"
_MANIFEST = pathlib.Path(__file__).with_name("manifest.json")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TRIES = 5  # a file
_PAUSE = 0.5  # seconds before the second try; doubled for each further one
_TIMEOUT = 30.0  # seconds in which something must come; `_SLOWEST` bytes once a file has begun
_SLOWEST = 1 << 17
_REDIRECTS = 5
_NO = ("", "0", "false", "no", "off")
_BLOCK = 1 << 18


def cache() -> pathlib.Path:
    """Returns the folder of downloaded presets and of unfinished downloads."""
    own = os.environ.get("SPHEREKERAS_CACHE")
    if own:
        return pathlib.Path(own)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.cache")
    return pathlib.Path(base) / "spherekeras"


def is_cached(folder: pathlib.Path) -> bool:
    """Returns whether this is the place of a downloaded preset."""
    parent = pathlib.Path(os.path.abspath(folder)).parent
    return parent.resolve() == (cache() / "presets").resolve()


def manifest() -> dict[str, dict[str, Any]]:
    """Returns what can be downloaded: by the preset's name, its entry in the manifest.

    An entry has `weights_licence`, `terms` (of the training data) and `files`: by name, each file's
    `url`, `size` in bytes and `sha256`. `backbone`, `parameters` and `lfw` are there to be listed.

    Raises:
        PresetError: `SPHEREKERAS_MANIFEST` names no manifest; the sentence says what is wrong.

    Example:

    >>> all("files" in entry for entry in manifest().values())
    True
    """
    path = pathlib.Path(os.environ.get("SPHEREKERAS_MANIFEST") or _MANIFEST)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        value = error
    return entries(value, path)


def entries(value: Any, path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Returns the entries of a manifest's content.

    Raises:
        PresetError: it is not as `manifest` says; the sentence names `path` and the fault.
    """
    try:
        if isinstance(value, Exception):
            raise value
        _require(value["format"] == 1, "`format` is 1, or spherekeras is updated")
        for name, entry in value["presets"].items():
            _require(NAME.fullmatch(name), f"{name!r} is a plain name")
            for key in ("weights_licence", "terms"):
                _require(isinstance(entry[key], str), f"{name}: `{key}` is text")
            _require("config.json" in entry["files"], f"{name} has a config.json")
            for file, stated in entry["files"].items():
                place = f"{name}/{file}"
                _require(NAME.fullmatch(file) and file != SUMS, f"{place} is a plain name")
                _require(re.match(r"https?://[^/]+/", stated["url"]), f"{place}: `url` is http(s)")
                size, digest = stated["size"], stated["sha256"]
                _require(type(size) is int and size >= 0, f"{place}: `size` is in bytes")
                _require(re.fullmatch("[0-9a-f]{64}", digest), f"{place}: `sha256` is 64 digits")
        return dict(value["presets"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise PresetError(
            f"{path} is not a manifest of presets: {reason}. Set SPHEREKERAS_MANIFEST to the path "
            "of a file that `spherekeras zoo manifest` wrote."
        ) from None


def size_of(entry: Mapping[str, Any]) -> int:
    """Returns the bytes of a preset, by its entry in the manifest."""
    return sum(stated["size"] for stated in entry["files"].values())


def fetch(name: str, entry: Mapping[str, Any]) -> pathlib.Path:
    """Returns the folder of a preset in the cache, downloaded unless it is there and whole.

    Processes that fetch the same preset wait for one another; an interrupted download goes on where
    it stopped, in the same process or a later one.

    Args:
        name: of the preset.
        entry: its entry in the manifest.

    Raises:
        PresetError: offline, refused by the server, or out of tries, room or rights.
    """
    folder, files = cache() / "presets" / name, entry["files"]
    sums = "".join(f"{files[file]['sha256']}  {file}\n" for file in sorted(files))
    work = cache() / "partial" / name / hashlib.sha256(sums.encode()).hexdigest()[:16]
    part = work / "preset"
    try:
        if _is_whole(folder, sums, files):
            return folder
        if os.environ.get("SPHEREKERAS_OFFLINE", "").lower() not in _NO:
            raise PresetError(
                f"{name} is not whole in the cache, and SPHEREKERAS_OFFLINE forbids to download "
                f"it. Unset that, or copy the preset's folder to {folder}."
            )
        with _alone(cache() / "partial" / f".lock-{name}", name):
            if _is_whole(folder, sums, files):
                return folder  # the process that was waited for has done it
            part.mkdir(parents=True, exist_ok=True)
            there = sum(path.stat().st_size for path in part.iterdir())
            progress = _Progress(max(size_of(entry) - there, 0))
            if shutil.disk_usage(part).free < progress.missing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            progress.say(
                f"Downloading {name}, {size_of(entry) / 1e6:,.1f} MB. Licence of the weights: "
                f"{entry['weights_licence'].rstrip('.')}. Training data: {entry['terms']}"
            )
            with contextlib.closing(progress):
                for file in sorted(files, key=lambda file: (files[file]["size"], file)):
                    _download(files[file], part / file, folder, progress)
            with atomic_path(part / SUMS) as temporary:
                temporary.write_bytes(sums.encode())
            folder.parent.mkdir(exist_ok=True)
            if os.path.lexists(folder):  # damaged, or of an older manifest
                shutil.rmtree(work / "old", ignore_errors=True)
                folder.rename(work / "old")
            part.rename(folder)
            shutil.rmtree(work.parent, ignore_errors=True)
            return folder
    except OSError as error:
        raise PresetError(
            f"{name}, {size_of(entry) / 1e6:,.1f} MB, cannot be written to {cache()}: "
            f"{error.strerror or error}. Make room, or set SPHEREKERAS_CACHE to another folder; "
            "what has come is kept."
        ) from None


def _download(
    stated: Mapping[str, Any], path: pathlib.Path, folder: pathlib.Path, progress: "_Progress"
) -> None:
    """Brings one file, in as many tries as are allowed, and proves it."""
    url, size = _mirrored(stated["url"]), stated["size"]
    problem = ""
    for attempt in range(_TRIES + 1):
        if path.is_file() and path.stat().st_size >= size:
            if sha256(path) == stated["sha256"]:
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                return
            _forget(path, progress)
            problem = problem or "its bytes are not those of the manifest's SHA-256"
        if attempt == _TRIES:
            break
        if attempt:
            progress.say(f"{path.name}: {problem}; try {attempt + 1} of {_TRIES}")
            time.sleep(_PAUSE * 2 ** (attempt - 1))
        problem = _receive(url, path, size, progress)
    raise PresetError(
        f"{folder.name} was not downloaded: {url} failed {_TRIES} times, lastly because {problem}. "
        f"What has come is kept: `spherekeras zoo fetch {folder.name}` goes on from there. Without "
        f"a network, copy the preset's folder to {folder}."
    )


def _receive(url: str, path: pathlib.Path, size: int, progress: "_Progress") -> str:
    """Makes one request for what `path` lacks; returns why that failed, "" for all of it.

    The validator (ETag or Last-Modified) of a begun file lies beside its folder: with it the
    server is asked to go on only in the same version (RFC 9110, section 13.1.5).
    """
    import http.client
    import urllib.error

    known = path.parent.with_name(f"{path.name}.validator")
    offset = path.stat().st_size if path.is_file() else 0
    headers = {"User-Agent": "spherekeras"}
    validator = ""
    if offset:
        headers["Range"] = f"bytes={offset}-"
        validator = _version(known.read_text(errors="replace")) if known.is_file() else ""
        if validator:
            headers["If-Range"] = validator
    try:
        response, sockets = _open(url, headers)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the server's file ends before ours
            _forget(path, progress)
        if error.code in (408, 416, 429) or error.code >= 500:
            return f"the server answered {error.code}"
        raise PresetError(
            f"{url} answered {error.code}. Update spherekeras, or set SPHEREKERAS_MIRROR to a "
            "server that has the file."
        ) from None
    except PresetError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _reason(error)
    with response:
        version = _version(response.headers.get("ETag"), response.headers.get("Last-Modified"))
        if response.status == 206 and offset:
            span = response.headers.get("Content-Range", "")
            same = not version or not validator or version == validator
            if not same or not re.fullmatch(rf"bytes {offset}-\d+/({size}|\*)", span):
                _forget(path, progress)
                return f"the server answered with other bytes than those asked for ({span[:60]!r})"
        elif response.status != 200:
            return f"the server answered {response.status}"
        else:
            offset = 0
        page = response.headers.get_content_type() == "text/html"  # or a file that is called so
        if page and response.length != size - offset:
            return "a web page (text/html) came in its place"
        if response.length not in (None, size - offset):
            return f"the server has {response.length:,} bytes, the manifest {size - offset:,}"
        if not offset:
            _forget(path, progress)
            known.write_text(version)
        with path.open("ab") as file, contextlib.ExitStack() as guard:
            since, then = time.monotonic(), offset
            guard.enter_context(_ended_after(2 * _TIMEOUT, sockets))
            while offset < size:  # what a server sends beyond the stated size is not read
                try:
                    block = response.read1(min(_BLOCK, size - offset))
                except (OSError, http.client.HTTPException, ValueError) as error:
                    return _reason(error)
                if not block:
                    return f"the connection ended after {offset:,} of {size:,} bytes"
                file.write(block)
                offset += len(block)
                progress.add(len(block))
                if time.monotonic() - since > _TIMEOUT:
                    if offset - then < _SLOWEST:
                        return f"only {offset - then:,} bytes came in {_TIMEOUT:g} s"
                    since, then = time.monotonic(), offset
                    guard.close()
                    guard.enter_context(_ended_after(2 * _TIMEOUT, sockets))
    return ""


def _open(url: str, headers: dict[str, str]) -> tuple[Any, list[socket.socket]]:
    """Opens an http(s) URL and follows redirects, to http(s) alone.

    Returns:
        The answer, and the sockets that its connections took.
    """
    import urllib.error
    import urllib.parse
    import urllib.request as request

    sockets: list[socket.socket] = []
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        *_handlers(sockets),
        request.HTTPErrorProcessor(),
        request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    redirects = 0
    while True:
        if not url.lower().startswith(("http://", "https://")):
            raise PresetError(
                f"A preset is fetched by http or https alone. Received: {url[:200]!r}. Check "
                "SPHEREKERAS_MIRROR and where the server redirects to."
            )
        try:
            return _in_time(opener, request.Request(url, headers=headers), sockets), sockets
        except urllib.error.HTTPError as error:
            error.close()
            target = error.headers.get("Location")
            if error.code not in (301, 302, 303, 307, 308) or not target or redirects == _REDIRECTS:
                raise
            url, redirects = urllib.parse.urljoin(url, target), redirects + 1


def _handlers(sockets: list[socket.socket]) -> tuple[Any, Any]:
    """urllib's handlers of http and https, whose connections put their sockets into a list."""
    import http.client
    import urllib.request as request

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    class Secure(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    class PlainHandler(request.HTTPHandler):
        def http_open(self, asked: Any) -> Any:
            return self.do_open(Plain, asked)

    class SecureHandler(request.HTTPSHandler):
        def https_open(self, asked: Any) -> Any:
            return self.do_open(Secure, asked)

    return PlainHandler(), SecureHandler()


def _in_time(opener: Any, asked: Any, sockets: list[socket.socket]) -> Any:
    """Opens in twice the timeout at most, however slowly status and headers come.

    A socket's own timeout begins anew with every byte. So a thread waits for the answer, and where
    that takes too long is left behind, to close what may still come; its connection is ended.
    """
    lock = threading.Lock()
    answers: list[Any] = []
    late: list[bool] = []

    def ask() -> None:
        answer: Any
        try:
            answer = opener.open(asked, timeout=_TIMEOUT)
        except Exception as error:
            answer = error
        with lock:
            answers.append(answer)
            if late and not isinstance(answer, Exception):
                answer.close()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * _TIMEOUT)
    with lock:
        late += [] if answers else [True]
    if late:
        _end(sockets)
        raise ConnectionError(f"the answer's headers did not end in {2 * _TIMEOUT:g} s")
    if isinstance(answers[0], Exception):
        raise answers[0]
    return answers[0]


@contextlib.contextmanager
def _ended_after(seconds: float, sockets: list[socket.socket]) -> Iterator[None]:
    """Ends connections on which one read, of a chunk's size say, takes longer than this."""
    timer = threading.Timer(seconds, _end, (sockets,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(sockets: list[socket.socket]) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):  # it has ended
            each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _alone(path: pathlib.Path, name: str) -> Iterator[None]:
    """Holds a lock that the system frees when the process ends, however it ends."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another process downloads {name}; waiting for it.", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Progress:
    """What a download tells on stderr; on a terminal, also a line with rate and time left."""

    def __init__(self, missing: int) -> None:
        self.received = 0
        self.missing = missing
        self._started = time.monotonic()
        self._shown = 0.0

    def add(self, count: int) -> None:
        """Counts bytes that came, less than zero for bytes that turned out to be of no use."""
        self.received += max(count, 0)
        self.missing -= count
        now = time.monotonic()
        since = now - max(self._shown, self._started)
        if sys.stderr.isatty() and (since > 0.2 or not self.missing):
            self._shown = now
            rate = self.received / max(now - self._started, 1e-9) / 1e6
            total, left = self.received + self.missing, self.missing / max(rate * 1e6, 1.0)
            text = f"{self.received / 1e6:,.1f}/{total / 1e6:,.1f} MB  {rate:,.1f} MB/s"
            text = f"{text}  {left:,.0f} s left"
            print(f"\r{text.ljust(60)}", end="", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Prints a sentence on a line of its own."""
        self.close()
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the line."""
        if self._shown:
            self._shown = 0.0
            print(file=sys.stderr)


def _is_whole(folder: pathlib.Path, sums: str, files: Mapping[str, Any]) -> bool:
    try:
        return (folder / SUMS).read_text() == sums and all(
            sha256(folder / file) == stated["sha256"] for file, stated in files.items()
        )
    except (OSError, ValueError):
        return False


def _forget(path: pathlib.Path, progress: _Progress) -> None:
    if path.is_file():
        progress.add(-path.stat().st_size)
        path.unlink()


def _mirrored(url: str) -> str:
    mirror = os.environ.get("SPHEREKERAS_MIRROR")
    return mirror.rstrip("/") + "/" + url.split("/", 3)[3] if mirror else url


def _version(*validators: str | None) -> str:
    """The first that can be sent back in `If-Range`: strong, printable and short."""
    strong = re.compile(r"(?!W/)[\x20-\x7e]{1,200}")
    return next((text for text in validators if text and strong.fullmatch(text)), "")


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return f"nothing useful came for {_TIMEOUT:g} s"
    # A server chooses what stands in here: nothing of it may steer a terminal.
    return f"the connection failed ({ascii(str(cause) or type(error).__name__)[1:-1][:120]})"


def _require(holds: object, rule: str) -> None:
    if not holds:
        raise ValueError(f"expected that {rule}")
