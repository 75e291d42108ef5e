"""What searching a million embeddings costs, exactly and approximately.

    python benchmarks/search.py           # 1,000,000 x 128, minutes, 3 GiB of memory

Simulated embeddings of 200,000 people, five in the gallery each: a direction for the person plus
noise, so that two of one person have a cosine of about 0.6. "even": directions spread evenly, the
hardest case for cells; "uneven": the variance of the i-th dimension falls as 1 / i, nearer to
trained embeddings. Time is the median of 5 searches, of 100 probes at once and of one alone;
recall@1 is measured on 1,000 probes against "exact". "faiss flat" is faiss' exhaustive index on the
same vectors. `load` is the machine's, this process included: above the number of cores only ratios
of times mean anything. Results: `search.csv` beside this file.
"""

import csv
import importlib.metadata
import os
import pathlib
import platform
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np

from spherekeras.search import Gallery

SIZE, DIM, PICTURES, PROBES = 1_000_000, 128, 5, 100
NOISE = 0.8
VISITED = (1 / 64, 1 / 16, 1 / 4)


def embeddings(uneven: bool) -> tuple[np.ndarray, np.ndarray]:
    """The gallery, and ten times `PROBES` probes of people in it."""
    random = np.random.default_rng(0)
    spread = np.arange(1, DIM + 1, dtype=np.float32) ** (-0.5 if uneven else 0)
    people = random.standard_normal((SIZE // PICTURES, DIM), dtype=np.float32) * spread
    noise = np.float32(NOISE * np.sqrt(np.mean(spread**2)))
    gallery = np.repeat(people, PICTURES, axis=0)
    for start in range(0, SIZE, 100_000):
        part = gallery[start : start + 100_000]
        part += noise * random.standard_normal(part.shape, dtype=np.float32)
    probes = people[random.integers(0, len(people), 10 * PROBES)]
    return gallery, probes + noise * random.standard_normal(probes.shape, dtype=np.float32)


def milliseconds(search: Callable[[], Any]) -> float:
    search()
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        search()
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken)


def main() -> None:
    cpu = [
        line.split(":")[1].strip()
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    machine = f"{len(os.sched_getaffinity(0))} cores of {cpu[0] if cpu else platform.machine()}"
    versions = " ".join(f"{n} {importlib.metadata.version(n)}" for n in ("numpy", "faiss-cpu"))
    rows = []

    def measure(data: str, name: str, build: float, gallery: Any, found: np.ndarray) -> None:
        """A row of the table; `found` are the positions that the 1,000 probes led to."""
        batch = milliseconds(lambda: gallery.search(probes[:PROBES], 1)) / PROBES
        rows.append(
            {
                "data": data,
                "method": name,
                "gallery": SIZE,
                "dim": DIM,
                "build_s": round(build, 1),
                "ms_a_probe_of_100": round(batch, 2),
                "ms_one_probe": round(milliseconds(lambda: gallery.search(probes[:1], 1)), 2),
                "recall_at_1": round(float(np.mean(found == best)), 4),
                "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                "load": round(os.getloadavg()[0], 1),
                "machine": machine,
                "versions": versions,
                "command": "python benchmarks/search.py",
            }
        )
        print({key: rows[-1][key] for key in list(rows[-1])[:10]}, flush=True)

    for data in ("even", "uneven"):
        vectors, probes = embeddings(data == "uneven")
        start = time.perf_counter()
        exact = Gallery(vectors)
        build = time.perf_counter() - start
        del vectors
        best = exact.search(probes)[1][:, 0]
        measure(data, "exact", build, exact, best)

        probes /= np.linalg.norm(probes, axis=1, keepdims=True)
        flat = faiss.IndexFlatIP(DIM)
        start = time.perf_counter()
        flat.add(exact.embeddings)
        build = time.perf_counter() - start
        measure(data, "faiss flat", build, flat, flat.search(probes, 1)[1][:, 0])
        del flat

        start = time.perf_counter()
        cells = Gallery(exact.embeddings, method="approximate")
        build = time.perf_counter() - start
        del exact
        for visited in VISITED:
            cells._index.nprobe = round(visited * cells._index.nlist)
            found = cells.search(probes)[1][:, 0]
            measure(data, f"approximate, visited {visited:g}", build, cells, found)
        del cells
    with open(pathlib.Path(__file__).with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
