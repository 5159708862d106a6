"""How a run is spread over its devices: the state whole on each (`replicas`), or cut among them (`fsdp`)."""

from __future__ import annotations

import jax
import optax

from experiments.config.tree import Config
from experiments.errors import UsageError
from experiments.training import programs
from experiments.training.fsdp import Shards, make_sharded_programs
from experiments.training.objective import Objective
from experiments.training.programs import Programs
from experiments.training.replicas import Device, Replicas, devices_of


def make_replicas(config: Config, devices: tuple[Device, ...] | None = None) -> Replicas:
    """The devices of all processes, or, in a run of one process, `devices`.

    Raises UsageError as `devices_of` does, and for measures of a model that no process has whole.
    """
    measured = config.measure.levels_every or config.measure.frechet_every
    if config.parallel == "fsdp" and measured and jax.process_count() > 1:
        raise UsageError(
            f"--measure needs the model in one process, and --parallel fsdp cuts it among {jax.process_count()}; leave "
            "--measure.levels-every and --measure.frechet-every out, or take --parallel data."
        )
    return (Shards if config.parallel == "fsdp" else Replicas)(*devices_of(config, devices))


def make_programs(
    config: Config, objective: Objective, optimizer: optax.GradientTransformation, replicas: Replicas
) -> Programs:
    """The programs of `config` on its devices; each is compiled at its first call."""
    if isinstance(replicas, Shards):
        return make_sharded_programs(config, objective, optimizer, replicas)
    return programs.make_programs(config, objective, optimizer, replicas)
