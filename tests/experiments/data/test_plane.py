"""Points in the plane as a data set: their law, their place in the pipeline, what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, Process
from experiments.data import Source, open_source, pipeline, split, to_model
from experiments.data.sources import plane
from experiments.errors import UsageError

NAMES = list(plane.LAWS)


@pytest.fixture(scope="module")
def sources():
    return {name: open_source(f"plane:{name}") for name in NAMES}


def log_prob(law, points):
    return np.asarray(law.log_prob(Process(EDM()), jnp.asarray(points), 0.0), np.float64)


@pytest.mark.parametrize("name", NAMES)
def test_the_points_are_draws_of_the_law(name, sources):
    """Mean, second moments and E ln p within 4 standard errors, the last against quadrature; a little noise is seen."""
    source, law = sources[name], plane.law(name)
    assert source.images.shape == (plane.COUNT, 2)
    assert source.images.dtype == np.float32
    x = source.images.astype(np.float64)
    pairs = [(x, np.zeros(2)), (x[:, :, None] * x[:, None], np.asarray(law.covariance, np.float64))]
    for draws, expected in pairs:
        assert np.all(np.abs(draws.mean(0) - expected) < 4 * draws.std(0) / len(x) ** 0.5)
    axis = np.linspace(-1.4, 1.4, 111)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    log_p = log_prob(law, grid)
    exact = np.sum(np.exp(log_p) * log_p) * (axis[1] - axis[0]) ** 2

    def far(points):
        values = log_prob(law, points)
        return abs(values.mean() - exact) / (values.std() / len(values) ** 0.5)

    some = x[:4_000]
    assert far(some) < 4
    assert far(some + 0.02 * np.random.default_rng(0).standard_normal(some.shape)) > 4


def test_the_draw_is_fixed_whatever_the_seed_and_neighbours_are_independent(sources):
    again = open_source("plane:moons", seed=3, held_out=0.5)
    assert again.fingerprint == sources["moons"].fingerprint
    assert len({source.fingerprint for source in sources.values()}) == len(NAMES)
    x = sources["gaussians"].images
    for lag in (1, 2):
        products = x[lag:] * x[:-lag]
        assert np.all(np.abs(products.mean(0)) < 4 * products.std(0) / len(products) ** 0.5)


def test_a_split_of_points_is_a_partition(sources):
    train, held_out = split(sources["spirals"], 0.1, 1)
    assert (len(train), len(held_out)) == (45_000, 5_000)
    assert train.event_shape == held_out.event_shape == (2,)
    assert train.of_points
    together = np.concatenate([train.images, held_out.images])
    np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(sources["spirals"].images, axis=0))
    assert split(sources["spirals"], 0.1, 2)[1].fingerprint != held_out.fingerprint


def test_an_epoch_visits_every_point_once_and_hands_it_on_as_it_is(sources):
    source = sources["gaussians"].take(np.arange(64))
    batches = pipeline(source, seed=0, batch_size=32)
    first, second = batches[0], batches[1]
    assert first["image"].dtype == np.float32
    assert first["image"].shape == (32, 2)
    assert to_model(first["image"]).tobytes() == first["image"].tobytes()
    epoch = np.concatenate([first["image"], second["image"]])
    np.testing.assert_array_equal(np.sort(epoch, axis=0), np.sort(source.images, axis=0))
    first["image"][...] = 0  # a batch may be written to
    assert np.all(source.images[:, 0] != 0)


def test_points_that_make_no_source_are_refused():
    good = np.zeros((3, 2), np.float32)
    Source(images=good)
    for bad in (good.astype(np.float64), good[0], np.zeros((0, 2), np.float32), good[None]):
        with pytest.raises(ValueError, match="points"):
            Source(images=bad)
    with pytest.raises(ValueError, match="1 coordinates of the points are not finite"):
        Source(images=np.array([[0, np.nan]], np.float32))


def test_the_fingerprint_of_points_tells_their_last_bit_apart(sources):
    x = sources["moons"].images[:5].copy()
    one = Source(images=x.copy()).fingerprint
    x[4, 1] = np.nextafter(x[4, 1], np.float32(9))
    assert Source(images=x).fingerprint != one


def test_what_goes_with_images_is_refused(sources, refused):
    for flag, value in (("size", 8), ("channels", 1), ("flip", True)):
        with pytest.raises(UsageError, match=rf"--data\.{flag} goes with images.*leave it out\."):
            open_source("plane:moons", **{flag: value})
    with pytest.raises(UsageError, match=r"--data\.flip mirrors images"):
        pipeline(sources["moons"], seed=0, batch_size=4, flip=True)


def test_a_law_that_does_not_exist_is_refused_with_the_nearest(refused):
    refused("plane:moon", "plane:moon does not exist (did you mean 'moons'?); there are")
    refused("plan:moons", "'plan:moons' is no data source (did you mean 'plane'?); the forms are digits")
    refused("plane:", "write plane:NAME")
    assert plane.law_of("digits") is None
    assert plane.law_of("plane:gaussians") is not None
