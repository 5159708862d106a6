"""A small trained run that the command line's tests share."""

import dataclasses
import json
import os

import pytest

from experiments import cli

TINY = [
    *("--training.steps", "12", "--training.batch-size", "16", "--training.log-every", "4"),
    *("--training.checkpoint-every", "6", "--training.validate-every", "6", "--training.sample-every", "0"),
    *("--network.channels", "8", "--network.multipliers", "1", "--schedule.steps", "20", "--sampling.steps", "4"),
]


@pytest.fixture(scope="session")
def run_command():
    """Run `scorefield` in this process: (status, stdout, stderr)."""

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

    def run(*arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
            # XLA has read its flags here; what the command adds is for processes that this one starts.
            patch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])
            try:
                status = cli.main([str(argument) for argument in arguments])
            except SystemExit as stop:
                status = int(stop.code or 0)
        return Outcome(status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def tiny_run(run_command, tmp_path_factory):
    """The folder of a digits DDPM after 12 steps."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    outcome = run_command("train", "--preset", "digits-ddpm", "--outdir", folder, "--quiet", *TINY)
    assert outcome.status == 0, outcome.err
    return folder


@pytest.fixture(scope="session")
def tiny_flags():
    """The flags of the tiny run."""
    return TINY


@pytest.fixture(scope="session")
def conditional_run(run_command, tiny_flags, tmp_path_factory):
    """A tiny run that knows classes, on a continuous process."""
    folder = tmp_path_factory.mktemp("runs") / "conditional"
    flags = [*("--preset", "digits-ddpm", "--outdir", folder, "--quiet", "--schedule", "edm", "--conditional")]
    tiny = list(tiny_flags)
    place = tiny.index("--schedule.steps")
    del tiny[place : place + 2]
    sampling = ("--sampling.sampler", "heun", "--training.sample-every", "12")
    outcome = run_command("train", *flags, *tiny, *sampling)
    assert outcome.status == 0, outcome.err
    return folder
