"""A small trained run that the command line's tests share."""

import dataclasses
import json
import os

import jax
import pytest

from experiments import cli
from experiments.training import loop
from experiments.training.placement import make_replicas
from tests.sharing import made_once, session_folder

TINY = [
    *("--training.steps", "12", "--training.batch-size", "16", "--training.log-every", "4"),
    *("--training.checkpoint-every", "6", "--training.validate-every", "6", "--training.sample-every", "0"),
    *("--network", "mlp", "--network.hidden", "16", "--network.layers", "1", "--network.embedding", "8"),
    *("--schedule.steps", "20", "--sampling.steps", "4"),
]
"""The network is one that compiles at once; `runs/kept/` and the page on Python have a U-Net."""


def on_one_device(config, devices=None):
    """`make_replicas` that takes the first device where none are named."""
    return make_replicas(config, devices or tuple(jax.local_devices()[:1]))


@pytest.fixture
def one_device(monkeypatch):
    """Trainings of this test take one device: a program that is spread over four compiles a third longer."""
    monkeypatch.setattr(loop, "make_replicas", on_one_device)


@pytest.fixture(scope="session")
def run_command():
    """Run `scorefield` in this process: (status, stdout, stderr). It trains on one device, or on all four.

    On one the parameters are those of four, as `training/test_loop.py` shows.
    """

    @dataclasses.dataclass
    class Outcome:
        status: int
        out: str
        err: str

        @property
        def value(self):
            return json.loads(self.out)

    import contextlib
    import io

    def run(*arguments, devices=1):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
            # XLA has read its flags here; what the command adds is for processes that this one starts.
            patch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])
            if devices == 1:
                patch.setattr(loop, "make_replicas", on_one_device)
            try:
                status = cli.main([str(argument) for argument in arguments])
            except SystemExit as stop:
                status = int(stop.code or 0)
        return Outcome(status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def trained(run_command, tmp_path_factory):
    """A function: the folder of a run of this name, trained with these flags by the first worker that asks for it."""

    def run(name, *flags):
        def train(folder):
            outcome = run_command("train", "--outdir", folder, "--quiet", *flags)
            assert outcome.status == 0, outcome.err

        return made_once(session_folder(tmp_path_factory) / "runs", name, train)

    return run


@pytest.fixture(scope="session")
def tiny_run(trained):
    """The folder of a digits DDPM after 12 steps."""
    return trained("tiny", "--preset", "digits-ddpm", *TINY)


@pytest.fixture(scope="session")
def tiny_flags():
    """The flags of the tiny run."""
    return TINY


@pytest.fixture(scope="session")
def conditional_run(trained, tiny_flags):
    """A tiny run that knows classes, on a continuous process."""
    tiny = list(tiny_flags)
    place = tiny.index("--schedule.steps")
    del tiny[place : place + 2]
    flags = ("--preset", "digits-ddpm", "--schedule", "edm", "--conditional")
    return trained("conditional", *flags, *tiny, "--sampling.sampler", "heun", "--training.sample-every", "12")


@pytest.fixture(scope="session")
def feature_cache(tmp_path_factory):
    """A folder for `--cache` that holds the feature network of the digits; its parent is for $XDG_CACHE_HOME."""
    from experiments.data import open_source, split
    from experiments.evaluation.features import feature_space

    def fill(folder):
        training, held_out = split(open_source("digits"))
        feature_space(training, held_out, cache=folder, notice=lambda line: None)

    return made_once(session_folder(tmp_path_factory) / "cache", "scorefield", fill)
