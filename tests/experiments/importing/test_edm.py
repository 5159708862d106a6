"""Networks of EDM's authors: what they answer after the import, and what is refused."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.noises import StudentT
from diffusion.published import cosine_levels
from diffusion.schedules import EDM
from experiments.errors import CheckpointError, UsageError
from experiments.importing.edm import layout
from experiments.importing.plan import Options, plan_import
from tests.experiments.importing.conftest import ADM, DDPMPP, NCSNPP, TINY, arrays_of
from tests.experiments.importing.published import Reference, write


def quick(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def planned(path, **options):
    return plan_import(f"edm:{path}", Options(**options))


@pytest.mark.parametrize("config", [NCSNPP, DDPMPP, ADM], ids=["ncsnpp", "ddpmpp", "adm"])
def test_an_imported_network_is_the_file_read_in_its_own_layout(config, published):
    arrays, plan = arrays_of(config), planned(published(config))
    numbers = config.get("augment_dim", 0)
    network = dataclasses.replace(layout("a file", config).network, augment_dim=numbers)
    params, (height, width, channels), rng = plan.read(), network.event_shape, np.random.default_rng(1)
    x = rng.standard_normal((2, height, width, channels), np.float32)
    c_noise, labels = np.asarray([0.7, -1.2], np.float32), np.asarray([2, 0], np.int32)
    classes, augment = config["label_dim"], rng.standard_normal((2, numbers), np.float32)
    one_hot = np.eye(classes, dtype=np.float32)[labels] if classes else None
    answer = quick(network)(params, x, c_noise, labels if classes else None, None, augment)
    reference = quick(Reference(arrays, config).__call__)
    expected = reference(x.transpose(0, 3, 1, 2), c_noise, one_hot, augment)
    expected = expected[:, :channels].transpose(0, 2, 3, 1)  # of iDDPM's the variances are left out
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(answer, expected, atol=2e-5 * np.abs(expected).max())


def test_the_names_are_those_of_the_authors():
    shapes = layout("a file", NCSNPP).shapes()
    assert shapes["model.map_noise.freqs"] == (8,)
    assert shapes["model.enc.8x8_conv.weight"] == (8, 3, 3, 3)
    assert shapes["model.enc.4x4_aux_residual.resample_filter"] == (1, 1, 4, 4)
    assert shapes["model.enc.4x4_block0.qkv.weight"] == (48, 16, 1, 1)
    assert shapes["model.dec.4x4_block1.norm0.weight"] == (24,)
    assert shapes["model.dec.8x8_up.affine.weight"] == (16, 32)
    assert "model.dec.4x4_block0.qkv.weight" not in shapes
    shapes = layout("a file", ADM).shapes()
    assert shapes["model.map_label.weight"] == (128, 4)
    assert shapes["model.out_conv.weight"] == (4, 32, 3, 3)
    assert shapes["model.enc.4x4_block0.affine.weight"] == (256, 128)
    assert "model.enc.4x4_down.skip.weight" not in shapes
    assert "model.dec.4x4_block0.qkv.weight" in shapes


@pytest.mark.parametrize(
    ("precond", "kind", "low", "high"),
    [
        ("EDMPrecond", "edm", 0.002, 80.0),
        ("VPPrecond", "vp", 0.002, 80.0),
        ("VEPrecond", "ve", 0.02, 80.0),
        ("iDDPMPrecond", "iddpm", 0.0064, 80.0),
    ],
)
def test_a_run_is_of_the_noise_levels_that_its_network_knows(precond, kind, low, high, published):
    plan = planned(published({**TINY, "precond": precond}))
    assert plan.config.preconditioning.kind == kind
    schedule = plan.config.schedule
    assert isinstance(schedule, EDM)
    assert (schedule.sigma_min, schedule.sigma_max) == pytest.approx((low, high), rel=0.02)


@pytest.mark.parametrize(("told", "options"), [({"pfgmpp": True, "D": 128}, {}), ({}, {"df": 128.0})])
def test_pfgmpp_has_student_noise_and_a_preconditioning_of_its_own(told, options, published):
    config = planned(published({**TINY, **told}), **options).config
    assert config.noise == StudentT(128.0)
    assert config.preconditioning.kind == "pfgmpp"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model.map_layer0.bias": None}, "lacks model.map_layer0.bias;"),
        ({"model.stray": np.zeros(3, "f4")}, "has model.stray, which the network of its configuration does not have"),
        ({"model.map_layer0.bias": np.zeros(31, "f4")}, r"model.map_layer0.bias has shape \[31\], and .* needs \[32\]"),
        ({"model.map_layer0.bias": np.zeros(32, "i4")}, "model.map_layer0.bias is of type I32; its numbers are to be"),
    ],
)
def test_arrays_that_are_not_those_of_the_configuration_are_refused_by_name(changes, sentence, published):
    with pytest.raises(CheckpointError, match=sentence):
        planned(published(TINY, changes))


def test_another_filter_than_that_of_the_configuration_is_refused_by_name(published):
    name = "model.enc.4x4_down.conv0.resample_filter"
    plan = planned(published(NCSNPP, {name: np.full((1, 1, 4, 4), 1 / 16, "f4")}))
    with pytest.raises(CheckpointError, match=f"{name} does not hold the resample_filter"):
        plan.read()


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"precond": "CMPrecond"}, "its precond is 'CMPrecond'; known are EDMPrecond, VPPrecond"),
        ({"model_type": "UNet"}, "its model_type is 'UNet'; known are SongUNet, DhariwalUNet"),
        ({"img_resolution": 0}, "its img_resolution is 0; it is a whole number of 1 or more"),
        ({"model_channels": "8"}, "its model_channels is '8'; give one such as 128"),
        ({"channel_mult": [1, 1.5]}, r"its channel_mult is \[1, 1.5\]; give one such as"),
        ({"channel_mult": [1, 2, 2, 2, 2]}, "an image of 8×8 pixels cannot be halved 4 times"),
        ({"resample_filter": [1, 2, 1]}, r"resample_filter is \(1, 2, 1\); give an even number of taps"),
        ({"chanel_mult": [1]}, "has 'chanel_mult', which is not known here .did you mean 'channel_mult'"),
        ({"precond": "VPPrecond", "beta_min": 0.2}, "its beta_min is 0.2; VPPrecond is known here with 0.1 alone"),
        ({"num_blocks": 10**6}, "its num_blocks is 1000000; give one such as 4"),
        ({"model_channels": 10**9}, "its model_channels is 1000000000; give one such as 128"),
        ({"resample_filter": [1] * 1000}, "its resample_filter is .*; give one such as"),
        ({"channel_mult": [1] * 100}, "its channel_mult is .*; give one such as"),
        ({"dropout": math.nan}, "its configuration makes no network"),
        ({"label_dropout": math.nan}, "its label_dropout is nan; it is a fraction"),
        ({"sigma_min": -1}, "its sigma_min is -1; it is a noise level"),
        ({"sigma_max": "80"}, "its sigma_max is '80'; it is a noise level"),
        ({"sigma_min": 90}, "its noise levels are 90 to inf, and those of a run are within 0.002 to 80"),
        ({"pfgmpp": "false", "D": 4}, "its pfgmpp is 'false'; it is true or false"),
        ({"pfgmpp": True, "D": math.inf}, "it is PFGM.*, and its D is inf"),
        ({"precond": "VPPrecond", "sigma_min": 0.1}, "has 'sigma_min', which is not known here"),
        ({"a\x1b[2J" * 200: 1}, r"has 'a\\x1b.*, which is not known here"),
        ({"sigma_data": 0}, "its sigma_data is 0; it is a positive number"),
        ({"pfgmpp": True}, "it is PFGM.*, and its D is None; give the degrees by --df"),
    ],
)
def test_a_configuration_that_is_not_known_is_refused_by_its_argument(told, sentence, tmp_path):
    path = write(tmp_path / "told.safetensors", {}, {"config": json.dumps({**TINY, **told})})
    with pytest.raises(CheckpointError, match=sentence):
        planned(path)


def test_an_argument_that_is_there_twice_is_refused(tmp_path):
    path = write(tmp_path / "told.safetensors", {}, {"config": json.dumps(TINY)[:-1] + ', "precond": "VPPrecond"}'})
    with pytest.raises(CheckpointError, match=r"its `config` is not valid JSON .*precond is there twice"):
        planned(path)


def test_attention_at_a_level_that_there_is_not_is_as_none(published):
    assert layout("a file", {**NCSNPP, "attn_resolutions": [16, 4]}).shapes() == layout("a file", NCSNPP).shapes()
    unsaid = {name: value for name, value in TINY.items() if name != "attn_resolutions"}
    assert layout("a file", unsaid).shapes() == layout("a file", TINY).shapes()


def test_a_run_is_within_the_noise_levels_that_the_file_says(published):
    schedule = planned(published({**TINY, "sigma_min": 0.01, "sigma_max": math.inf})).config.schedule
    assert schedule == EDM(sigma_min=0.01, sigma_max=80.0)
    schedule = planned(published({**TINY, "sigma_min": 0, "sigma_max": 50})).config.schedule
    assert schedule == EDM(sigma_min=0.002, sigma_max=50)


def test_the_levels_of_an_iddpm_chain_may_be_in_the_file(published):
    levels = cosine_levels()[::-1].astype("f4")
    config, factors = {**TINY, "precond": "iDDPMPrecond"}, np.linspace(1, 1.05, 1001, dtype="f4")
    planned(published(config, {"u": levels})).read()
    plan = planned(published(config, {"u": levels * factors}))
    with pytest.raises(CheckpointError, match="u does not hold the levels of its chain"):
        plan.read()


def test_half_precision_is_read_as_it_is(published):
    name = "model.map_layer0.weight"
    array = arrays_of(TINY)[name].astype(np.float16)
    params = planned(published(TINY, {name: array})).read()
    kernel = params["map_layer0"]["kernel"]
    np.testing.assert_array_equal(kernel, array.T)
    assert kernel.dtype == np.float32


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("some.pt", "is nothing to import; give diffusers:DIR or edm:FILE"),
        ("edn:some", "'edn:some' is nothing to import .did you mean 'edm'"),
        ("edm:", "does not say where; give edm:FILE.safetensors"),
    ],
)
def test_what_is_no_source_is_refused(source, sentence):
    with pytest.raises(UsageError, match=sentence):
        plan_import(source, Options())


def test_no_class_is_the_answer_for_a_vector_of_zeros(published):
    plan, reference = planned(published(DDPMPP)), Reference(arrays_of(DDPMPP), DDPMPP)
    x, c_noise = np.ones((1, 8, 8, 3), np.float32), np.ones(1, np.float32)
    answer = quick(layout("a file", DDPMPP).network)(plan.read(), x, c_noise, None)
    expected = quick(reference.__call__)(x.transpose(0, 3, 1, 2), c_noise, np.zeros((1, 3), "f4"), jnp.zeros((1, 9)))
    np.testing.assert_allclose(answer, expected.transpose(0, 2, 3, 1), atol=2e-5 * np.abs(expected).max())
