"""What reaches the terminal."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

alone = threading.RLock()  # who turns the process' outputs elsewhere holds it


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Inside, standard error goes nowhere, that of compiled code too; one thread at a time."""
    with alone:
        if sys.stderr is not None:
            sys.stderr.flush()
        try:
            kept = os.dup(2)
        except OSError:  # it is closed: nothing to keep silent
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)
