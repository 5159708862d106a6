"""What is imposed on the denoiser's answer: against its formula, sample by sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import EDM, Process
from diffusion.ddpm.reverse_steps import Learned
from diffusion.oracles import Atoms
from samplers import DDIM, Ancestral, karras, sample
from samplers.transforms import clipped, dynamic_threshold, dynamically_thresholded

KEY = jax.random.key(0)


def scaled(weight, x, t):
    return weight * x


@pytest.fixture
def x(x64):
    """Six images, from dark to glaring."""
    return (
        jax.random.normal(jax.random.key(1), (6, 4, 4, 3))
        * jnp.asarray([0.01, 0.2, 0.5, 1, 3, 10])[:, None, None, None]
    )


TRANSFORMS = {"clipped": clipped, "thresholded": dynamically_thresholded}


def test_clipping_is_by_coordinate(x):
    np.testing.assert_array_equal(clipped(Partial(scaled, 2.0))(x, 1.0), np.clip(2 * x, -1, 1))
    np.testing.assert_array_equal(clipped(Partial(scaled, 2.0), 0.0, 0.5)(x, 1.0), np.clip(2 * x, 0, 0.5))
    high = jnp.linspace(0.1, 1.0, 48).reshape(4, 4, 3)
    np.testing.assert_array_equal(clipped(Partial(scaled, 2.0), -high, high)(x, 1.0), np.clip(2 * x, -high, high))


@pytest.mark.parametrize("percentile", [0.0, 37.5, 90.0, 99.5, 100.0])
def test_thresholding_is_its_formula(x, percentile):
    """Saharia et al. 2022, section 2.3, with NumPy's percentile, one sample at a time."""
    got = dynamically_thresholded(Partial(scaled, 1.0), percentile)(x, 1.0)
    for image, answer in zip(np.asarray(x), got, strict=True):
        s = max(1.0, np.percentile(np.abs(image), percentile))
        np.testing.assert_allclose(answer, np.clip(image, -s, s) / s, rtol=1e-12)
    assert np.abs(got).max() == 1.0


def test_an_answer_within_the_range_is_left_alone(x):
    small = x[:2]
    assert np.abs(small).max() < 1
    for transform in TRANSFORMS.values():
        np.testing.assert_array_equal(transform(Partial(scaled, 1.0))(small, 1.0), small)


def test_the_threshold_is_at_least_one(x):
    thresholds = dynamic_threshold(x, 90.0)
    assert thresholds.shape == (6,)
    np.testing.assert_array_equal(thresholds[:3], 1.0)
    assert (thresholds[4:] > 1).all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_samples_never_mix(x, name):
    """A glaring image beside it changes no other; nor does the order."""
    denoise = TRANSFORMS[name](Partial(scaled, 1.0))
    whole, order = denoise(x, 1.0), jnp.asarray([5, 3, 0])
    np.testing.assert_array_equal(denoise(x[order], 1.0), whole[order])
    np.testing.assert_array_equal(denoise(x.at[0].set(1e6), 1.0)[1:], whole[1:])


def test_the_exact_denoiser_of_data_in_the_range_is_not_clipped(x64):
    """A mean of images is an image: sampling is the same with and without."""
    process = Process(EDM())
    denoise = Atoms(np.sign(np.asarray(jax.random.normal(KEY, (5, 3))))).denoiser(process)
    grid = karras(process, 8)
    plain, held = (sample(KEY, process, d, DDIM(), grid, (4, 3)).x for d in (denoise, clipped(denoise)))
    np.testing.assert_allclose(held, plain, rtol=1e-10)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_samples_end_in_the_range(name):
    process = Process(EDM())
    denoise = TRANSFORMS[name](Partial(scaled, 5.0))
    end = sample(KEY, process, denoise, DDIM(), karras(process, 5), (3, 8)).x
    assert np.abs(end).max() <= 1
    assert np.abs(end).max() > 0.9


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_learned_variance_passes_through(x, name):
    process, v = Process(EDM()), jnp.full((3, 8), 2.5)
    denoise = TRANSFORMS[name](lambda x, t: (9 * x, v))
    x_0, kept = denoise(jnp.ones((3, 8)), 1.0)
    np.testing.assert_array_equal(kept, v)
    assert np.abs(x_0).max() == 1
    assert np.isfinite(sample(KEY, process, denoise, Ancestral(Learned()), karras(process, 3), (3, 8)).x).all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_new_limits_do_not_recompile(name):
    traces = []

    def counted(weight, x, t):
        traces.append(1)
        return scaled(weight, x, t)

    process, ends, counts = Process(EDM()), [], []
    for weight, options in ((2.0, {}), (3.0, {"clipped": (-2, 2), "thresholded": (80,)}[name])):
        denoise = TRANSFORMS[name](Partial(counted, weight), *options)
        ends.append(sample(KEY, process, denoise, DDIM(), karras(process, 3), (2, 5)).x)
        counts.append(len(traces))
    assert counts[0] == counts[-1] > 0
    if name == "clipped":
        assert np.abs(ends[1]).max() > np.abs(ends[0]).max()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("options", [(), (np.float64(0.5),), (50,)], ids=repr)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_precision_is_the_answers(name, dtype, options):
    options = options if name == "thresholded" or not options else (-options[0], options[0])
    answer = TRANSFORMS[name](Partial(scaled, 1.0), *options)(jnp.full((2, 5), 3.0, dtype), 1.0)
    assert answer.dtype == dtype


def test_bad_options_are_refused_in_a_sentence():
    for low, high in ((1.0, -1.0), (0.0, 0.0), (float("nan"), 1.0)):
        with pytest.raises(
            ValueError, match=f"low = {low} and high = {high} leave no range to clip to; use low < high"
        ):
            clipped(jnp.add, low, high)
    for percentile in (-1.0, 101.0, float("nan")):
        with pytest.raises(ValueError, match=rf"percentile = {percentile}; give a number of percent in \[0, 100\]"):
            dynamically_thresholded(jnp.add, percentile)
