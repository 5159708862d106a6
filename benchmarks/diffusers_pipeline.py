"""An imported UNet2DModel beside diffusers' own pipeline: a batch of images by DDIM, in the same process, in pairs.

    python -m benchmarks.diffusers_pipeline
    python -m benchmarks.diffusers_pipeline --forward --pairs 11

Random weights in the shape of the published DDPM of CIFAR-10 (Ho et al. 2020): 32 × 32 × 3, channels 128, 256, 256 and
256, two layers a block, attention at 16 × 16. Both sides run one after the other, again and again, and the median of
the ratios of neighbours is printed, so that what else the machine does falls on both. `--forward` measures one answer
of the network in place of a whole run; `--clock processor` counts processor time, which with `--threads 1` under
`taskset -c 0` is what a core has to do, however busy the machine is. Needs torch and diffusers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

CIFAR10 = {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
"""The network's configuration."""
SMALL = {**CIFAR10, "sample_size": 16, "block_out_channels": (32, 32, 32, 32)}
"""A network to try the script with."""


def sides(config: dict[str, Any], batch: int, steps: int, *, forward: bool) -> dict[str, Callable[[], Any]]:
    """What is timed on either side; each returns an array that is there."""
    import diffusers  # type: ignore[import-not-found]
    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch  # type: ignore[import-not-found]
    from jax.tree_util import Partial

    from experiments.importing.diffusers_names import to_params, unet2d_network, wanted
    from experiments.importing.diffusers_scheduler import read_scheduler
    from samplers import DDIM, sample

    torch.manual_seed(0)
    model = diffusers.UNet2DModel(**config).eval()
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    schedule = read_scheduler({**scheduler.config, "_class_name": "DDIMScheduler"})
    network = unet2d_network(dict(model.config), time=schedule.time)
    arrays = {name: array.detach().numpy() for name, array in model.state_dict().items()}
    params = jax.device_put(to_params(wanted(network), arrays))
    shape = (batch, *network.event_shape)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    if forward:
        there, here, times = torch.tensor(x.transpose(0, 3, 1, 2)), jnp.asarray(x), jnp.full((batch,), 500.0)
        call = jax.jit(lambda params, x, t: network(params, x, t, None))

        def theirs() -> Any:
            with torch.no_grad():
                return model(there, 499).sample.numpy().transpose(0, 2, 3, 1)

        return {"diffusers": theirs, "scorefield": lambda: np.asarray(call(params, here, times))}
    pipeline = diffusers.DDIMPipeline(model, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    denoise = schedule.denoiser(Partial(network, params))
    key, grid = jax.random.key(0), schedule.grid(steps)
    return {
        "diffusers": lambda: pipeline(batch_size=batch, num_inference_steps=steps, output_type="np").images,  # type: ignore[union-attr]
        "scorefield": lambda: np.asarray(sample(key, schedule.process, denoise, DDIM(), grid, shape).x),
    }


def measure(
    timed: dict[str, Callable[[], Any]], pairs: int, say: Callable[[str], None], clock: Callable[[], float]
) -> dict[str, list[float]]:
    """The seconds of each side in `pairs` rounds, after one that is not counted; every second round begins with the
    other side."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(-1, pairs):
        for name in list(timed)[:: -1 if number % 2 else 1]:
            begun = clock()
            timed[name]()
            if number >= 0:
                seconds[name].append(clock() - begun)
        if number >= 0:
            say("  ".join(f"{name} {each[-1]:.3f} s" for name, each in seconds.items()))
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forward", action="store_true", help="one answer of the network, not a whole run")
    parser.add_argument("--small", action="store_true", help="a small network, to try the script")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    from experiments.compilation import compile_for_the_commands

    compile_for_the_commands()
    import torch  # type: ignore[import-not-found]

    torch.set_num_threads(arguments.threads)
    config = SMALL if arguments.small else CIFAR10
    timed = sides(config, arguments.batch, arguments.steps, forward=arguments.forward)
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    seconds = measure(timed, arguments.pairs, lambda line: print(line, file=sys.stderr, flush=True), clock)
    ratios = [theirs / ours for theirs, ours in zip(seconds["diffusers"], seconds["scorefield"], strict=True)]
    rates = {name: arguments.batch / statistics.median(each) for name, each in seconds.items()}
    found = {
        "what": "one answer" if arguments.forward else f"{arguments.steps} steps of DDIM",
        "batch": arguments.batch,
        "images_per_second": rates,
        "least_seconds": {name: min(each) for name, each in seconds.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }
    if arguments.json:
        print(json.dumps(found))
        return
    for name, rate in rates.items():
        print(f"{name:12}{rate:10.3g} images/s")
    print(
        f"scorefield is {found['ratio']:.2f} × as fast ({min(ratios):.2f} to {max(ratios):.2f} of {len(ratios)} pairs)"
    )


if __name__ == "__main__":
    main()
