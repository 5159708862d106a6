"""The parts of benchmarks/device.py, one a process: python -m benchmarks.device_parts PART [--toy]

A part prints a line `row: JSON` for each thing that it has measured. Training goes by `scorefield.training`, as a
user's script does, on images of smooth noise, which cost what images cost; what it is timed by is the loss, which waits
for the device.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import scorefield
from diffusion.networks.configs import DiTConfig, MLPConfig, UNetConfig
from experiments import presets
from experiments.config.tree import Config
from experiments.errors import UsageError

Row = dict[str, Any]
STEPS, WARM = 40, 8
_compiling: list[float] = []


class Absent(Exception):
    """What this version, or this machine, does not have."""


def configuration(name: str, toy: bool) -> Config:
    """A preset, or one of the two networks that PyTorch has too, on images of noise. Raises Absent for neither."""
    if name in ("unet-32", "transformer-32"):
        config = presets.load("cifar10-ddpmpp-edm")
        if name == "transformer-32":
            network = DiTConfig(patch=2, width=384, depth=12, heads=6, compute_dtype="bfloat16")
            config = dataclasses.replace(config, network=network)
        config = _with(config, batch_size=256)
    else:
        try:
            config = presets.load(name)
        except UsageError:
            raise Absent("not in this version") from None
    return small(config) if toy else config


def small(config: Config) -> Config:
    """The same configuration at a size that a CPU has done in a moment."""
    network = config.network
    if isinstance(network, UNetConfig):
        network = dataclasses.replace(network, channels=8, multipliers=(1, 1), blocks=1, attention_resolutions=())
    else:
        fields = {"width": 16, "depth": 1, "heads": 2, "patch": 4, "bottleneck": 4, "class_tokens_from": 0}
        known = {field.name for field in dataclasses.fields(network)}
        network = dataclasses.replace(network, **{k: v for k, v in fields.items() if k in known})
    return _with(dataclasses.replace(config, network=network), batch_size=4)


def side(config: Config, toy: bool) -> int:
    """The side of the images that a configuration is for."""
    return 8 if toy else max(config.data.shape or (32,))


def on_noise(config: Config, size: int, folder: Path) -> Config:
    """`config` with smooth random images of `size`, which are written to `folder`."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (512, -(-size // 8) + 1, -(-size // 8) + 1, 3))
    fine = np.repeat(np.repeat(coarse, 8, 1), 8, 2)[:, :size, :size]
    np.savez(folder / "noise.npz", images=fine.astype(np.uint8), labels=rng.integers(0, 10, 512))
    data = dataclasses.replace(config.data, source=f"npz:{folder / 'noise.npz'}", size=None, held_out=0.0)
    return dataclasses.replace(config, data=data)


def _with(config: Config, **fields: Any) -> Config:
    quiet = {"validate_every": 0, "sample_every": 0, "checkpoint_every": 10**6, "log_every": 10**6}
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **{**quiet, **fields}))


def trained(config: Config, folder: Path, toy: bool) -> tuple[Row, list[float]]:
    """(Images/s, seconds of compilation, memory) of a short training, and its losses."""
    every = config.training.steps_per_dispatch
    steps, warm = (3 * every, every) if toy else (STEPS * every, WARM * every)
    config, losses, start = _with(config, steps=steps), [], 0.0
    with scorefield.training(config, folder / "run") as run:
        for step in run:
            if step.step <= warm or step.step == steps:
                losses.append(step.loss)
                start = time.perf_counter() if step.step <= warm else start
        seconds = time.perf_counter() - start if steps > warm else float("nan")
    rate = (steps - warm) * config.training.batch_size / seconds
    return {"images/s": rate, "compilation s": sum(_compiling), "memory GB": memory()}, losses


def memory() -> float:
    """The most that was in use, on the device or, where it does not say, of the process."""
    told = jax.local_devices()[0].memory_stats() or {}
    return told.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 1e9


def seconds_of(function: Callable[..., Any], *arguments: Any, repeats: int = 10) -> float:
    """The least time of a call, the first of them left out."""
    jax.block_until_ready(function(*arguments))
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        took.append(time.perf_counter() - start)
    return min(took)


def ceiling(toy: bool) -> Iterator[Row]:
    """The product of two large matrices."""
    side = 256 if toy else 8192
    for dtype in (jnp.bfloat16, jnp.float32):
        matrix = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
        rate = 2 * side**3 / seconds_of(jax.jit(jnp.matmul), matrix, matrix)
        yield {"what": f"{side} × {side}, {jnp.dtype(dtype).name}", "TFLOP/s": rate / 1e12}


def train(name: str, toy: bool) -> Iterator[Row]:
    """Training and sampling of one configuration."""
    from experiments.training.budget import expectation
    from experiments.training.data import open_data

    config = configuration(name, toy)
    with tempfile.TemporaryDirectory() as folder:
        config = on_noise(config, side(config, toy), Path(folder))
        row, _ = trained(config, Path(folder), toy)
        most = expectation(config, open_data(config).facts)["images_per_second_at_most"]
        share = {} if most is None else {"share of the ceiling": row["images/s"] / most}
        yield {"what": f"training, batch {config.training.batch_size}", **row, **share}
        run, seeds, steps = scorefield.load(Path(folder) / "run"), range(4 if toy else 64), 2 if toy else 18
        run.sample(seeds=seeds, steps=steps)
        start = time.perf_counter()
        run.sample(seeds=seeds, steps=steps)
        yield {"what": f"sampling, {steps} steps", "images/s": len(seeds) / (time.perf_counter() - start)}


def types(toy: bool) -> Iterator[Row]:
    """The loss in bfloat16 beside that in float32, step by step from one start."""
    losses = {}
    for dtype in ("float32", "bfloat16"):
        config = configuration("unet-32", toy)
        config = dataclasses.replace(config, network=dataclasses.replace(config.network, compute_dtype=dtype))
        _compiling.clear()
        with tempfile.TemporaryDirectory() as folder:
            row, losses[dtype] = trained(on_noise(config, side(config, toy), Path(folder)), Path(folder), toy)
        yield {"what": f"unet-32, {dtype}", **row, "last loss": losses[dtype][-1]}
    pairs = zip(losses["float32"], losses["bfloat16"], strict=True)
    yield {"what": "largest relative difference", "loss": max(abs(a - b) / abs(a) for a, b in pairs)}


def attention(toy: bool) -> Iterator[Row]:
    """Forms of attention, forward and backward, and how far each is from float32."""
    for batch, tokens, heads, size in [(2, 16, 2, 8)] if toy else [(64, 256, 6, 64), (16, 1024, 6, 64)]:
        shape, keys = (batch, tokens, heads, size), jax.random.split(jax.random.key(0), 3)
        exact = [jax.random.normal(key, shape) for key in keys]
        narrow = [x.astype(jnp.bfloat16) for x in exact]

        def gradient(implementation: Any) -> Callable[..., Any]:
            def loss(*qkv: Any) -> Any:
                answer = jax.nn.dot_product_attention(*qkv, implementation=implementation)
                return jnp.sum(answer.astype(jnp.float32) ** 2)

            return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))

        wanted = gradient("xla")(*exact)
        for form in ("xla", "cudnn"):
            what = f"{form}, {batch} × {tokens} tokens, {heads} heads of {size}"
            try:
                took, found = seconds_of(gradient(form), *narrow), gradient(form)(*narrow)
            except Exception as error:
                yield {"what": what, "not available": " ".join(str(error).split())[:80]}
                continue
            gaps = [
                jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b)
                for a, b in zip(found, wanted, strict=True)
            ]
            yield {"what": what, "ms": 1000 * took, "relative gap to float32": float(max(gaps))}


def dispatch(toy: bool) -> Iterator[Row]:
    """Several steps in one call to the device."""
    for count in (1, 2) if toy else (1, 4, 16):
        config = dataclasses.replace(configuration("mnist-edm-unet", toy), conditional=False)
        if toy:  # any network has steps, and this one's are compiled soonest
            config = dataclasses.replace(config, network=MLPConfig(hidden=16, layers=1, embedding=8))
        config = _with(config, batch_size=config.training.batch_size, steps_per_dispatch=count)
        _compiling.clear()
        with tempfile.TemporaryDirectory() as folder:
            row, _ = trained(on_noise(config, 8 if toy else 28, Path(folder)), Path(folder), toy)
        yield {"what": f"{count} steps per dispatch", **row}


def parallel(toy: bool) -> Iterator[Row]:
    """A state that is sharded, on however many devices there are, beside one that is whole on each."""
    config = configuration("transformer-32", toy)
    if "parallel" not in {field.name for field in dataclasses.fields(config)}:
        raise Absent("not in this version")
    for way in ("data", "fsdp"):
        _compiling.clear()
        with tempfile.TemporaryDirectory() as folder:
            one = dataclasses.replace(config, **{"parallel": way})
            row, losses = trained(on_noise(one, side(one, toy), Path(folder)), Path(folder), toy)
        yield {"what": f"{way}, {jax.device_count()} devices", **row, "last loss": losses[-1]}


def torch(name: str, toy: bool) -> Iterator[Row]:
    """PyTorch's network of that shape, eager, with the same optimiser, clipping and average."""
    try:
        from benchmarks import device_torch
    except ModuleNotFoundError as error:
        raise Absent(f"{error.name} is not installed") from None
    config = configuration(name, toy)
    yield device_torch.trained(config, side(config, toy), 3 if toy else STEPS, 1 if toy else WARM)


WITHOUT_A_NAME = {
    "ceiling": ceiling,
    "types": types,
    "attention": attention,
    "dispatch": dispatch,
    "parallel": parallel,
}
OF_A_NAME = {"train": train, "torch": torch}


def rows(part: str, toy: bool) -> Iterator[Row]:
    """What a part measures, as it is measured. Raises Absent where there is nothing to measure."""
    if part in WITHOUT_A_NAME:
        return WITHOUT_A_NAME[part](toy)
    kind, _, name = part.partition(" ")
    return OF_A_NAME[kind](name, toy)


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    if event.endswith("backend_compile_duration"):
        _compiling.append(duration_secs)


def main() -> None:
    """Print the rows of one part."""
    part, toy = sys.argv[1], "--toy" in sys.argv[2:]
    jax.monitoring.register_event_duration_secs_listener(_listen)
    _tell("device", f"{jax.device_count()} × {jax.devices()[0].device_kind}")
    try:
        for row in rows(part, toy):
            _tell("row", row)
    except Absent as error:
        _tell("failed", str(error))


def _tell(kind: str, value: Any) -> None:
    print(f"{kind}: {json.dumps(value)}", flush=True)


if __name__ == "__main__":
    main()
