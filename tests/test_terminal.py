"""Standard error goes nowhere for a while, and comes back."""

import subprocess
import sys

PROGRAM = """
import os, sys
from spherekeras.terminal import silenced

first = os.dup(2)
os.close(first)
for _ in range(3):
    try:
        with silenced():
            os.write(2, b"compiled\\n")
            print("python", file=sys.stderr)
            raise ValueError
    except ValueError:
        print("back", file=sys.stderr, flush=True)
os.write(2, b"compiled again\\n")
assert os.dup(2) == first  # no descriptor is left open
"""


def test_standard_error_is_silenced_and_comes_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stderr.splitlines() == ["back"] * 3 + ["compiled again"]
    assert done.returncode == 0
