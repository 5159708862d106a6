"""The run that others are compared with, and the programs that the trainings of a file share."""

import dataclasses

import jax
import pytest

from experiments.training import loop
from experiments.training.placement import make_programs
from tests.experiments.training.tiny_run import tiny_config, tiny_data
from tests.sharing import made_once, session_folder


@pytest.fixture(scope="session")
def straight(tmp_path_factory):
    """Twenty steps on one device, without a break."""

    def train(folder):
        loop.train(tiny_config(), folder, data=tiny_data(), devices=tuple(jax.devices()[:1]), quiet=True)

    return made_once(session_folder(tmp_path_factory) / "runs", "straight", train)


@pytest.fixture(scope="module")
def programs_kept():
    """Programs by all that they depend on."""
    return {}


@pytest.fixture
def shared_programs(programs_kept, monkeypatch):
    """Trainings that differ in nothing that is compiled are traced and lowered once: when they log, save and end."""

    def make(config, objective, optimizer, replicas):
        schedule = {"log_every": 1, "validate_every": 1, "checkpoint_every": 1, "sample_every": 0}
        if not config.optimizer.falls_to_the_end:  # or the number of steps is compiled in
            schedule["steps"] = 20
        same = dataclasses.replace(config.training, **schedule, steps_per_dispatch=1)
        key = (dataclasses.replace(config, training=same), type(replicas), replicas.local, replicas.on_cpu)
        if key not in programs_kept:
            programs_kept[key] = make_programs(config, objective, optimizer, replicas)
        return programs_kept[key]

    monkeypatch.setattr(loop, "make_programs", make)
