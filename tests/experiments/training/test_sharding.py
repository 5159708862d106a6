"""Axes by name: what is cut among devices, and what stays whole."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from experiments.training.sharding import SMALL, bytes_on_each, logical_axes, partition, shardings

MESH = Mesh(np.array(jax.devices()[:4]), ("data",))


def path(*names):
    return tuple(jax.tree_util.DictKey(name) for name in names)


@pytest.mark.parametrize(
    ("name", "rank", "axes"),
    [
        ("kernel", 2, ("in", "out")),
        ("kernel", 4, (None, None, "in", "out")),
        ("embedding", 2, ("entries", "out")),
        ("bias", 1, ("out",)),
        ("scale", 2, (None, "out")),
        ("kernel", 1, ("out",)),
        ("count", 0, ()),
    ],
)
def test_axes_are_named_by_the_role_of_the_array(name, rank, axes):
    assert logical_axes(path("blocks", "0", name), rank) == axes


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("kernel", (64, 128), PartitionSpec(None, "data")),
        ("kernel", (64, 129), PartitionSpec("data", None)),  # what the number of devices does not divide is passed over
        ("kernel", (65, 129), PartitionSpec()),
        ("kernel", (3, 3, 32, 32), PartitionSpec(None, None, None, "data")),
        ("embedding", (1000, 66), PartitionSpec()),  # classes are not cut: a batch asks for any of them
        ("kernel", (4, 4), PartitionSpec()),
        ("bias", (SMALL,), PartitionSpec("data")),
        ("bias", (SMALL - 4,), PartitionSpec()),
    ],
)
def test_the_first_axis_of_the_rules_that_divides_is_cut(name, shape, spec):
    assert partition(path(name), shape, MESH) == spec


def test_each_device_holds_its_part():
    tree = {"kernel": np.zeros((64, 128), np.float32), "bias": np.zeros(128, np.float32)}
    placed = jax.tree.map(jax.device_put, tree, shardings(tree, MESH))
    on_each = [
        sum(leaf.addressable_shards[i].data.nbytes for leaf in jax.tree.leaves(placed)) for i in range(MESH.size)
    ]
    assert on_each == [bytes_on_each(tree, MESH)] * 4
    assert bytes_on_each(tree, MESH) == 64 * 128 * 4 // 4 + 128 * 4
