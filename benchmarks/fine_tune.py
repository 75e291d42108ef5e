"""What `examples/fine_tune.py` gains on people left out of a preset's training.

    python benchmarks/fine_tune.py PRESET RECORDS [ROUNDS]      # 6 rounds; a minute or two each

The 50 people with most crops among those held out. The example learns every other crop of a
person; each round puts them in another order, so the halves are others. Before and after are what
it prints, over all rounds; the gain's 95 % interval is of a bootstrap of the people, each with its
crops of all rounds, as if relatives were strangers. The example's settings were chosen on others:
people of LFW's view 1 and 50 more of those held out.

RECORDS: those that PRESET was trained on.
"""

import csv
import pathlib
import runpy
import sys
import tempfile

import keras
import numpy as np

import spherekeras as sk
from spherekeras import publishing
from spherekeras.data import pipeline, records
from spherekeras.files import atomic_path
from spherekeras.provenance import processor, versions

EXAMPLE = pathlib.Path(__file__).resolve().parent.parent / "examples" / "fine_tune.py"
PEOPLE = 50


def write_people(source: records.Records, positions: np.ndarray, folder: str, seed: int) -> None:
    """Writes a folder a person, each one's crops in another order with every seed."""
    rng = np.random.default_rng(seed)
    for label in np.unique(source.labels[positions]):
        person = pathlib.Path(folder) / source.identities[label].replace("/", "_")
        person.mkdir()
        ours = rng.permutation(positions[source.labels[positions] == label])
        for number, position in enumerate(ours):
            (person / f"{number:03d}.jpg").write_bytes(source.read([position])[0])


def gain(right: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """A 95 % interval of the gain: people are drawn anew, each with all its crops of all rounds."""
    people = labels.max() + 1
    shares = (*right.T, np.ones(len(labels)))
    sums = np.stack([np.bincount(labels, share, people) for share in shares])
    drawn = np.random.default_rng(0).integers(0, people, (10_000, people))
    before, after, crops = (row[drawn].sum(axis=1) for row in sums)
    low, high = np.quantile((after - before) / crops, (0.025, 0.975))
    return float(low), float(high)


def main() -> None:
    """Runs the rounds and writes `fine_tune.csv`, a row a preset."""
    preset, source = sys.argv[1], records.open_records(sys.argv[2])
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 6
    faces = sk.load_preset(preset)
    who = publishing.held_out_people(faces, source)[2]  # refuses other records than the training's
    _, held = pipeline.split(source, validation=publishing.validation_share(faces, source))
    counts = np.bincount(source.labels[held], minlength=len(source.identities))
    chosen = np.argsort(-counts, kind="stable")[:PEOPLE]
    positions = held[np.isin(source.labels[held], chosen)]
    right, labels = [], []
    for seed in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            write_people(source, positions, folder, seed)
            sys.argv = [str(EXAMPLE), preset, folder]
            ran = runpy.run_path(str(EXAMPLE))
        named = ~ran["known"]
        truth = ran["labels"][named]
        first = (ran["rows"][named] @ ran["means"].T).argmax(axis=1) == truth
        last = ran["model"].predict(ran["crops"][named], verbose=0).argmax(axis=1) == truth
        assert (first.mean(), last.mean()) == (ran["before"], ran["after"])
        right.append(np.stack([first, last], axis=1))
        labels.append(truth)
        keras.utils.clear_session()
    both, low_high = np.concatenate(right), gain(np.concatenate(right), np.concatenate(labels))
    row = {
        "preset": preset,
        "people": f"{len(np.unique(source.labels[positions]))} {who}",
        "crops": len(positions),
        "rounds": rounds,
        "before": f"{both[:, 0].mean():.4f}",
        "after": f"{both[:, 1].mean():.4f}",
        "gain_low": f"{low_high[0]:.4f}",
        "gain_high": f"{low_high[1]:.4f}",
        "rounds_that_gained": sum(bool(r[:, 1].sum() > r[:, 0].sum()) for r in right),
        "machine": processor(),
        **versions(),
    }
    table = pathlib.Path(__file__).with_suffix(".csv")
    rows = list(csv.DictReader(table.open(newline=""))) if table.is_file() else []
    rows = [old for old in rows if old["preset"] != preset] + [row]
    with atomic_path(table) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, dict.fromkeys(key for row in rows for key in row))
        writer.writeheader()
        writer.writerows(rows)
    print({key: row[key] for key in list(row)[:9]})


if __name__ == "__main__":
    main()
