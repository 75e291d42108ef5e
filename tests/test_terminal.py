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


TWO_AT_ONCE = """
import os, threading
from spherekeras.export.serving import quiet
from spherekeras.terminal import silenced

places = [os.fstat(descriptor).st_ino for descriptor in (1, 2)]
first, second = threading.Event(), threading.Event()

def one():
    with quiet():
        first.set()
        second.wait(0.5)

def two():
    first.wait()
    with silenced():
        second.set()

threads = [threading.Thread(target=work) for work in (one, two, one)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert [os.fstat(descriptor).st_ino for descriptor in (1, 2)] == places
"""


def test_threads_that_turn_the_outputs_away_do_not_lose_them() -> None:
    done = subprocess.run([sys.executable, "-c", TWO_AT_ONCE], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
