import pathlib
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from spherekeras import search
from spherekeras.errors import DataError
from spherekeras.search import Gallery


def people(
    count: int, pictures: int, dim: int, seed: int = 0, noise: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings around random directions, of lengths other than 1, and whose they are."""
    random = np.random.default_rng(seed)
    owner = np.repeat(np.arange(count), pictures)
    centres = np.random.default_rng(99).normal(size=(count, dim))
    vectors = centres[owner] + noise * random.normal(size=(owner.size, dim))
    return (vectors * random.uniform(0.5, 3, (owner.size, 1))).astype(np.float32), owner


def naive(
    gallery: Gallery, probes: np.ndarray, k: int
) -> tuple[list[list[float]], list[list[int]]]:
    """Cosines one by one in float64 of the vectors that the gallery holds, then a stable sort."""
    cosines, positions = [], []
    for probe in np.asarray(probes, np.float64):
        one = (probe / np.linalg.norm(probe)).astype(np.float32).astype(np.float64)
        scores = [float(np.sum(row.astype(np.float64) * one)) for row in gallery.embeddings]
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]
        positions.append(order)
        cosines.append([min(max(scores[i], -1.0), 1.0) for i in order])
    return cosines, positions


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small gallery takes many blocks, probes many turns and ranks many parts."""
    for name, value in (("_BLOCK", 64), ("_PROBES", 5), ("_SAMPLE", 16), ("_NUMBERS", 500)):
        monkeypatch.setattr(search, name, value)


@pytest.mark.parametrize("k", [1, 3, 70, 1000])
@pytest.mark.parametrize("dim", [1, 2, 64])
@pytest.mark.usefixtures("small_blocks")
def test_exact_is_a_naive_loop_in_float64(k: int, dim: int) -> None:
    vectors, _ = people(60, 5, dim)
    probes, _ = people(12, 1, dim, seed=1)
    gallery = Gallery(vectors)
    cosines, positions = gallery.search(probes, k)
    assert (cosines.dtype, positions.dtype) == (np.float64, np.int64)
    wanted = naive(gallery, probes, k)
    np.testing.assert_array_equal(positions, wanted[1])
    np.testing.assert_array_equal(cosines, wanted[0])
    true = vectors.astype(np.float64) @ probes.astype(np.float64).T
    true /= np.linalg.norm(vectors, axis=1)[:, None] * np.linalg.norm(probes, axis=1)
    np.testing.assert_allclose(cosines, -np.sort(-true.T)[:, :k], rtol=0, atol=3e-7)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("spread", [1e-4, 1e-6])
def test_cosines_that_float32_cannot_tell_apart_are_ranked_by_float64(spread: float) -> None:
    random = np.random.default_rng(5)
    vectors = np.ones((400, 32)) + spread * random.normal(size=(400, 32))
    gallery, probes = Gallery(vectors), np.ones((3, 32)) + 0.5 * random.normal(size=(3, 32))
    positions = gallery.search(probes, 9)[1]
    wanted = naive(gallery, probes, 9)[1]
    np.testing.assert_array_equal(positions, wanted)
    products = probes.astype(np.float32) @ gallery.embeddings.T
    assert (np.argsort(-products, axis=1, kind="stable")[:, :9] != wanted).any()


@pytest.mark.usefixtures("small_blocks")
def test_equal_embeddings_stand_in_the_gallerys_order() -> None:
    random = np.random.default_rng(2)
    kinds = random.normal(size=(7, 16))
    which = random.integers(0, 7, 500)
    gallery = Gallery(kinds[which])
    cosines, positions = gallery.search(kinds, 40)
    for kind in range(7):
        assert positions[kind].tolist() == np.flatnonzero(which == kind)[:40].tolist()
        assert (cosines[kind] == cosines[kind, 0]).all()
        assert 1 - 1e-6 < cosines[kind, 0] <= 1
    turned = gallery.search(kinds[::-1], 40)
    np.testing.assert_array_equal(turned[1], positions[::-1])


@pytest.mark.usefixtures("small_blocks")
def test_the_best_may_lie_in_any_block() -> None:
    vectors, _ = people(300, 1, 8)
    order = np.argsort(vectors[:, 0] / np.linalg.norm(vectors, axis=1))
    probe = np.eye(8)[:1]
    for turn in (1, -1):  # every block better than the last, or worse
        gallery = Gallery(vectors[order][::turn])
        np.testing.assert_array_equal(gallery.search(probe, 5)[1], naive(gallery, probe, 5)[1])


def test_blocks_and_probes_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, _ = people(80, 4, 24)
    probes, _ = people(30, 1, 24, seed=3)
    whole = Gallery(vectors).search(probes, 6)
    for name, value in (("_BLOCK", 50), ("_PROBES", 7), ("_SAMPLE", 10)):
        monkeypatch.setattr(search, name, value)
    for part, other in zip(Gallery(vectors).search(probes, 6), whole, strict=True):
        np.testing.assert_array_equal(part, other)


def test_names_are_ranked_by_their_best_embedding() -> None:
    vectors = [[1, 0], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.9], [0, 1]]
    gallery = Gallery(vectors, ["Ann", "Ann", "Ann", "Bob", "Cid", "Bob"])
    first, second = gallery.identify([[2, 0], [0, 1]], k=2)
    assert [name for name, _ in first] == ["Ann", "Bob"]
    assert [cosine for _, cosine in first] == pytest.approx([1, 0.7 / np.hypot(0.7, 0.3)])
    assert [name for name, _ in second] == ["Bob", "Cid"]
    assert [[name for name, _ in ranked] for ranked in gallery.identify([[1, 0.2]], k=9)] == [
        ["Ann", "Bob", "Cid"]
    ]
    assert Gallery(vectors).identify([[0, 1]], k=1) == [[(5, 1.0)]]


def test_fewer_people_than_asked_for_are_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, owner = people(4, 200, 16, noise=50.0)  # so that all are among the nearest
    gallery, asked = Gallery(vectors, owner), []
    search_whole = Gallery.search
    monkeypatch.setattr(
        Gallery, "search", lambda self, probes, k: asked.append(k) or search_whole(self, probes, k)
    )
    for ranked in gallery.identify(people(3, 1, 16, seed=1)[0], 5):
        assert sorted(name for name, _ in ranked) == [0, 1, 2, 3]
    assert asked in ([5], [5, 20], [5, 20, 80])  # and not on to all 800


def test_names_are_those_of_a_naive_ranking() -> None:
    vectors, owner = people(25, 30, 6, noise=1.5)
    probes, _ = people(10, 1, 6, seed=4)
    gallery = Gallery(vectors, owner)
    cosines, positions = naive(gallery, probes, len(gallery))
    for ranked, best, at in zip(gallery.identify(probes, 8), cosines, positions, strict=True):
        wanted: dict[int, float] = {}
        for cosine, position in zip(best, at, strict=True):
            wanted.setdefault(int(owner[position]), cosine)
        assert ranked == list(wanted.items())[:8]


def test_a_gallery_comes_back_from_its_file(tmp_path: pathlib.Path) -> None:
    vectors, owner = people(20, 3, 16)
    gallery = Gallery(vectors, [f"Jörg {each}" for each in owner])
    for name in ("a.npz", "b.npz"):
        gallery.save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = Gallery.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(again.embeddings, gallery.embeddings)
    assert again.identify(vectors[:3], 2) == gallery.identify(vectors[:3], 2)


def test_a_file_that_is_no_gallery_is_refused(tmp_path: pathlib.Path) -> None:
    np.savez(tmp_path / "other.npz", numbers=np.ones(3))
    np.savez(tmp_path / "pickled.npz", embeddings=np.array([{}], object), names=["a"])
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "text.npz").write_text("text")
    (tmp_path / "empty.npz").write_bytes(b"")
    gallery = Gallery(*people(20, 3, 16))
    gallery.save(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-300])
    files = ["other.npz", "pickled.npz", "array.npy", "text.npz", "empty.npz", "cut.npz", "none"]
    for name in files:
        message = rf"an .npz file of `embeddings` and `names`. Received: .*{name} \(.*\). Write it"
        with pytest.raises(DataError, match=message):
            Gallery.load(tmp_path / name)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_gallery_with_any_byte_changed_is_whole_or_refused(
    tmp_path: pathlib.Path, save: Any
) -> None:
    embeddings = np.eye(3, dtype="float32")
    path, refused = tmp_path / "gallery.npz", 0
    save(path, embeddings=embeddings, names=np.array(["Ann", "Bob", "Cid"]))
    whole = path.read_bytes()
    for at in range(len(whole)):
        for mask in (0x01, 0x40, 0xFF):
            damaged = bytearray(whole)
            damaged[at] ^= mask
            path.write_bytes(damaged)
            try:
                gallery = Gallery.load(path)
            except DataError:
                refused += 1
            else:
                np.testing.assert_array_equal(gallery.embeddings, embeddings)
    assert refused > len(whole)


def test_a_memory_map_is_read(tmp_path: pathlib.Path) -> None:
    vectors, _ = people(20, 3, 16)
    vectors.tofile(tmp_path / "vectors")
    mapped = np.memmap(tmp_path / "vectors", np.float32, "r", shape=vectors.shape)
    np.testing.assert_array_equal(Gallery(mapped).embeddings, Gallery(vectors).embeddings)


def test_what_was_given_is_not_changed() -> None:
    vectors, _ = people(5, 1, 4)
    kept = vectors.copy()
    gallery = Gallery(vectors)
    gallery.search(vectors, 2)
    np.testing.assert_array_equal(vectors, kept)
    np.testing.assert_allclose(np.linalg.norm(gallery.embeddings, axis=1), 1, atol=1e-7)


def test_no_probe_has_no_answer() -> None:
    gallery = Gallery(np.eye(3))
    cosines, positions = gallery.search(np.zeros((0, 3)), 2)
    assert cosines.shape == positions.shape == (0, 2)
    assert gallery.identify(np.zeros((0, 3))) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ([1.0, 2.0],),
            r"gallery embeddings \(n, dim\). Received: shape \(2,\), dtype float64. A s",
        ),
        (([["a"]],), r"gallery embeddings \(n, dim\). Received: shape \(1, 1\), dtype <U1"),
        ((np.zeros((0, 4)),), "Received: 0 embeddings, names of shape"),
        (([[1.0], [0.0]],), "gallery embedding 1 has length 0. Remove it, or check the model"),
        (([[1.0], [np.nan]],), "gallery embedding 1 has length nan. Remove it"),
        (([[np.inf]],), "gallery embedding 0 has length inf. Remove it"),
        (([[1.0]], ["a", "b"]), r"Received: 1 embeddings, names of shape \(2,\), dtype <U1. Pass"),
        (([[1.0]], [None]), r"Received: 1 embeddings, names of shape \(1,\), dtype object. Pass"),
        (([[1.0]], None, "hnsw"), "Received: method='hnsw', visited=0.0625. Call `Gallery"),
        (([[1.0]], None, "exact", 0), "`visited` in .0, 1.. Received: method='exact', visited=0."),
    ],
)
def test_a_gallery_says_what_came(arguments: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Gallery(*arguments)


def test_a_search_says_what_came() -> None:
    gallery = Gallery(np.eye(3))
    for probes, k, message in [
        (
            [[1.0, 2.0]],
            1,
            r"Expected probes \(probes, 3\) .* Received: shape \(1, 2\), k=1. Embed b",
        ),
        (np.eye(3), 0, r"k of at least 1. Received: shape \(3, 3\), k=0."),
        (
            [1.0, 0.0, 0.0],
            1,
            r"probe embeddings \(n, dim\). Received: shape \(3,\).*embedding.None",
        ),
        ([[0.0, 0.0, 0.0]], 1, "probe embedding 0 has length 0."),
    ]:
        for ask in (gallery.search, gallery.identify):
            with pytest.raises(DataError, match=message):
                ask(probes, k)


def test_a_missing_faiss_is_named_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    message = r'by faiss, .*Run `pip install "spherekeras\[search\]"`, or leave `method` at "exact"'
    with pytest.raises(DataError, match=message):
        Gallery(np.eye(3), method="approximate")
    assert Gallery(np.eye(3)).search(np.eye(3))[1].tolist() == [[0], [1], [2]]


def test_a_large_gallery_is_searched_in_a_moment() -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((200_000, 32), dtype=np.float32)
    gallery = Gallery(vectors)
    started = time.perf_counter()
    cosines, positions = gallery.search(vectors[::4000])
    assert time.perf_counter() - started < 5  # 0.1 s on an idle machine
    assert positions[:, 0].tolist() == list(range(0, 200_000, 4000))
    np.testing.assert_allclose(cosines, 1, atol=1e-6)


class TestApproximate:
    @pytest.fixture(autouse=True)
    def faiss(self) -> None:
        pytest.importorskip("faiss", reason="approximate search needs faiss-cpu")

    def test_recall_is_what_a_comparison_with_exact_counts(self) -> None:
        vectors, owner = people(1000, 5, 32, noise=0.7)
        probes, _ = people(1000, 1, 32, seed=8, noise=0.7)
        exact = Gallery(vectors, owner).search(probes, 3)[1]
        shares = []
        for visited in (0.01, 0.1, 1.0):
            gallery = Gallery(vectors, owner, "approximate", visited)
            found = gallery.search(probes, 3)[1]
            hits = [best in row for row, good in zip(found, exact, strict=True) for best in good]
            share = sum(hits) / len(hits)
            assert gallery.recall(probes, 3) == pytest.approx(share, abs=1e-12)
            shares.append(share)
        assert shares[0] < 0.9 < shares[1] < shares[2] == 1
        assert Gallery(vectors).recall(probes[:9], 3) == 1

    def test_all_cells_give_what_exact_gives(self) -> None:
        vectors, _ = people(100, 8, 16)
        twice = np.concatenate([vectors, vectors])
        every = Gallery(twice, method="approximate", visited=1.0).search(vectors[:50], 1)
        for found, exact in zip(every, Gallery(twice).search(vectors[:50], 1), strict=True):
            np.testing.assert_array_equal(found, exact)

    def test_names_and_ranks_are_in_order(self) -> None:
        vectors, owner = people(100, 8, 16, noise=0.2)
        gallery = Gallery(vectors, owner, "approximate")
        cosines, positions = gallery.search(vectors, 4)
        assert (np.diff(cosines, axis=1) <= 0).all()
        np.testing.assert_array_equal(positions[:, 0], np.arange(800))
        assert [ranked[0][0] for ranked in gallery.identify(vectors[::8], 1)] == list(range(100))

    def test_cells_that_hold_too_few_are_made_good_by_exact(self) -> None:
        vectors, _ = people(100, 8, 16)
        gallery = Gallery(vectors, method="approximate", visited=1e-9)
        exact = Gallery(vectors).search(vectors[:20], 700)
        for found, wanted in zip(gallery.search(vectors[:20], 700), exact, strict=True):
            np.testing.assert_array_equal(found, wanted)

    def test_two_buildings_answer_alike(self) -> None:
        vectors, _ = people(500, 8, 16)
        first, second = (
            Gallery(vectors, method="approximate", visited=0.02).search(vectors[::7], 5)
            for _ in range(2)
        )
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_a_gallery_of_one_is_searched(self, tmp_path: pathlib.Path) -> None:
        gallery = Gallery(np.eye(3)[:1], ["Ann"], "approximate")
        gallery.save(tmp_path / "one.npz")
        again = Gallery.load(tmp_path / "one.npz", "approximate")
        assert again.identify([[1.0, 0.0, 0.0]]) == [[("Ann", 1.0)]]

    @pytest.mark.parametrize("order", ["faiss, tensorflow", "tensorflow, faiss"])
    def test_it_lives_beside_tensorflow(self, order: str) -> None:
        code = (
            f"import {order}\nimport numpy as np, tensorflow as tf\n"
            "from spherekeras.search import Gallery\n"
            "vectors = np.random.default_rng(0).normal(size=(5000, 32)).astype('float32')\n"
            "product = tf.matmul(vectors, vectors, transpose_b=True).numpy()\n"
            "best = Gallery(vectors, method='approximate').search(vectors)[1][:, 0]\n"
            "print((best == np.arange(5000)).all(), product.shape)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        )
        assert done.stdout.strip() == "True (5000, 5000)"
