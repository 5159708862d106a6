"""Files of statistics: those of others are read, ours say what they are of, and what is none is refused."""

import numpy as np
import pytest

from experiments.errors import DataError, UsageError
from experiments.evaluation.statistics import is_statistics, read_statistics, write_statistics
from experiments.evaluation.wide import side

ROWS = np.random.default_rng(0).normal(size=(20, 3))
TOLD = {"network": "Inception", "weights_sha256": "ab" * 32, "preprocessing": "tf1: ...", "source": "photos"}


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "new" / "s.npz"
    write_statistics(path, side(ROWS), TOLD)
    assert is_statistics(path)
    found = read_statistics(path)
    np.testing.assert_allclose(found.moments.covariance, np.cov(ROWS, rowvar=False), rtol=1e-12)
    np.testing.assert_allclose(found.side.moments.mean, ROWS.mean(0), rtol=1e-12)
    assert (found.count, found.told) == (20, TOLD)


def test_files_of_others_have_a_mean_and_a_covariance_alone(tmp_path):
    np.savez(
        tmp_path / "o.npz", mu=ROWS.mean(0).astype(np.float32), sigma=np.cov(ROWS, rowvar=False).astype(np.float32)
    )
    found = read_statistics(tmp_path / "o.npz")
    assert (found.count, found.told) == (None, {})
    found.require("anything", "any", 3)
    with pytest.raises(DataError, match="has 3 features, and this network 2048"):
        found.require("anything", "any", 2048)


def test_statistics_of_another_network_or_preprocessing_are_refused(tmp_path):
    write_statistics(tmp_path / "s.npz", side(ROWS), TOLD)
    found = read_statistics(tmp_path / "s.npz")
    found.require(TOLD["weights_sha256"], TOLD["preprocessing"], 3)
    with pytest.raises(DataError, match="made with weights_sha256 abab"):
        found.require("cd" * 32, TOLD["preprocessing"], 3)
    with pytest.raises(DataError, match="made with preprocessing tf1"):
        found.require(TOLD["weights_sha256"], "clean-fid: ...", 3)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mu": np.zeros(3), "sigma": np.zeros((3, 2))}, "sigma (3, 2)"),
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "mu has shape (0,)"),
        ({"mu": np.full(2, np.nan), "sigma": np.eye(2)}, "not finite"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 0.5], [-0.5, 1.0]])}, "not symmetric"),
        ({"mu": np.zeros(2), "sigma": np.diag([1.0, -1.0])}, "negative eigenvalue"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 2.0], [2.0, 1.0]])}, "negative eigenvalue"),
        ({"mu": np.zeros(2), "sigma": np.array([[object()] * 2] * 2)}, "cannot be read"),
        ({"mu": np.array(["a", "b"]), "sigma": np.eye(2)}, "cannot be read"),
    ],
)
def test_what_is_no_mean_and_covariance_is_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises(DataError) as refused:
        read_statistics(tmp_path / "b.npz")
    assert said in str(refused.value)


def test_images_are_no_statistics_and_only_npz_is_written(tmp_path):
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 4, 4, 1), np.uint8))
    (tmp_path / "torn.npz").write_bytes(b"PK")
    assert not any(map(is_statistics, (tmp_path / "images.npz", tmp_path / "torn.npz", tmp_path, tmp_path / "no.npz")))
    with pytest.raises(UsageError, match=r"ending in \.npz"):
        write_statistics(tmp_path / "s.txt", side(ROWS), TOLD)
