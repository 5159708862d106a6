#!/usr/bin/env bash
# What one would guess: a checkpoint of arrays that were cut among four devices is read on one by the call that reads any
# other, `load(path)`, whole.
#
# Seen (orbax-checkpoint 0.12.8, its v1 interface, jax 0.10.1): where a device that saved is not there, `load(path)`
# raises ValueError ("sharding passed to deserialization should be specified"). Where there are more devices than saved,
# it works, and gives arrays that are cut as they were. With a tree of NumPy arrays of the shapes and types that
# `metadata(path)` tells, the arrays come whole in NumPy, on any number of devices.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet jax==0.10.1 jaxlib==0.10.1 orbax-checkpoint==0.12.8
cat > try.py <<'PY'
import os
import pathlib
import sys
import warnings

count, path = int(sys.argv[1]), str(pathlib.Path("saved").absolute())
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={count}"
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

warnings.simplefilter("ignore")
values = np.arange(48, dtype=np.float32).reshape(8, 6)
if sys.argv[2] == "save":
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    ocp.save(path, {"x": jax.device_put(values, NamedSharding(mesh, PartitionSpec("devices")))})
else:
    try:
        plain = f"cut among {len(ocp.load(path)['x'].sharding.device_set)}"
    except ValueError:
        plain = "ValueError"
    told = ocp.metadata(path).metadata
    found = ocp.load(path, jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), told))["x"]
    print(f"{count} devices: load(path) gives {plain}; with NumPy arrays {type(found).__name__}")
    assert plain == sys.argv[3], plain
    assert isinstance(found, np.ndarray) and np.array_equal(found, values)
PY
export JAX_PLATFORMS=cpu
venv/bin/python try.py 4 save 2> /dev/null
venv/bin/python try.py 1 load ValueError 2> /dev/null
venv/bin/python try.py 2 load ValueError 2> /dev/null
venv/bin/python try.py 8 load "cut among 4" 2> /dev/null
