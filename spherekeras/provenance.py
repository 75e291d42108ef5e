"""What a number was measured with: versions, commit, processor."""

import contextlib
import pathlib
import platform
import subprocess
from importlib import metadata

_PACKAGES = ("keras", "numpy", "ai-edge-litert")


def versions() -> dict[str, str]:
    """Returns Python, packages, the project's commit ("+" for changes on top)."""
    import cv2

    root = pathlib.Path(__file__).resolve().parent.parent
    commit = "not from a checkout"
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            commit = run.stdout.strip()
    found = {"commit": commit}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    if "keras" in found:
        import keras

        found["backend"] = keras.backend.backend()
    return {**found, "opencv": cv2.__version__, "python": platform.python_version()}


def processor() -> str:
    """Returns the processor's name, for a number that depends on it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
