"""A run that takes seconds: 8×8 images, a network of a few hundred parameters; also as a process of its own."""

import dataclasses
import json
import sys
import time
from pathlib import Path

import numpy as np

from diffusion.networks.configs import MLPConfig
from experiments.config.nodes import EMAConfig, OptimizerConfig, TrainingConfig
from experiments.config.tree import Config
from experiments.errors import DataError, ScorefieldError

SHAPE, BATCH = (8, 8, 1), 8
NETWORK = MLPConfig(hidden=8, layers=1, embedding=4, dropout=0.2)


class TinyBatches:
    """Blobs that move with their label; batch n depends on n, and each process takes its share."""

    def __init__(self, process_index=0, process_count=1, delay=0.0, fails_at=None, error=DataError):
        self.share = slice(process_index * BATCH // process_count, (process_index + 1) * BATCH // process_count)
        self.delay, self.fails_at, self.error = delay, fails_at, error

    def __getitem__(self, step):
        time.sleep(self.delay)
        if step == self.fails_at:
            raise self.error("an image is gone.")
        rng = np.random.default_rng(step)
        label = rng.integers(0, 4, BATCH)
        image = rng.integers(0, 60, (BATCH, *SHAPE))
        for i, place in enumerate(label):
            image[i, 2 * place : 2 * place + 2] += 190
        batch = {
            "image": image.astype(np.uint8),
            "label": label.astype(np.int32),
            "slot": np.arange(BATCH, dtype=np.int32),
        }
        return {name: leaf[self.share] for name, leaf in batch.items()}


def tiny_data(process_index=0, process_count=1, delay=0.0, fails_at=None, error=DataError):
    """Training batches and two held-out ones."""
    from experiments.training.data import Facts, RunData

    held_out = TinyBatches(process_index, process_count)
    batches = TinyBatches(process_index, process_count, delay, fails_at, error)
    return RunData(Facts(SHAPE, 4, ("a", "b", "c", "d")), batches, [held_out[10**6], held_out[10**6 + 1]])


def tiny_config(*, optimizer=None, ema=None, training=None, **fields):
    """Every feature that draws random numbers is on: labels and their dropout, network dropout, two averages."""
    return Config(
        network=fields.pop("network", NETWORK),
        conditional=fields.pop("conditional", True),
        label_dropout=0.3,
        optimizer=OptimizerConfig(
            **{"learning_rate": 3e-3, "warmup_steps": 4, "weight_decay": 0.01, **(optimizer or {})}
        ),
        ema=EMAConfig(decays=(0.9, 0.99), **(ema or {})),
        training=TrainingConfig(
            **{
                **{"steps": 20, "batch_size": BATCH, "log_every": 5, "validate_every": 10, "checkpoint_every": 10},
                **(training or {}),
            }
        ),
        **fields,
    )


def main(arguments):
    """Train as a process: `outdir`, then JSON: `training`, `delay`, `fails_at`, `init_from`, flags of processes."""
    outdir, options = Path(arguments[0]), json.loads(arguments[1])
    from experiments.training.distributed import initialize

    if "process_id" in options:
        initialize(options["coordinator"], options["num_processes"], options["process_id"])
    from experiments.training.loop import train
    from experiments.training.warm_start import InitFrom

    place = (options.get("process_id", 0), options.get("num_processes", 1))
    if "slow_save" in options:
        from experiments.training import checkpoint

        write = checkpoint.write_manifest
        checkpoint.write_manifest = lambda folder: time.sleep(options["slow_save"]) or write(folder)
    config = tiny_config(training=options.get("training"), optimizer=options.get("optimizer"))
    source = options.get("init_from")
    try:
        data = tiny_data(*place, options.get("delay", 0.0), options.get("fails_at"))
        result = train(config, outdir, data=data, init_from=source and InitFrom(Path(source)))
    except ScorefieldError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    print(json.dumps({**dataclasses.asdict(result), "checkpoint": str(result.checkpoint)}, default=str))
    return result.exit_status
