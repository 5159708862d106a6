"""Real processes: killed, asked to stop, or several as one run."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run
from tiny_run import tiny_config, tiny_data

from experiments.errors import BusyError, UsageError
from experiments.training.checkpoint import find_checkpoints, load
from experiments.training.distributed import initialize
from experiments.training.loop import train

ROOT = Path(__file__).parents[3]


def start(outdir, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    # One device each, whatever this process was given.
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
    command = [sys.executable, "-W", "error", tiny_run.__file__, str(outdir), json.dumps(options)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process, condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def final(outdir):
    return load(outdir / "checkpoints" / "00000020")[0]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    outdir = tmp_path_factory.mktemp("straight")
    train(tiny_config(), outdir, data=tiny_data(), devices=tuple(jax.devices()[:1]), quiet=True)
    return outdir


def test_a_run_killed_twice_is_the_run_that_was_not(straight, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    # Killed in the middle of a save, then between saves.
    training = {"checkpoint_every": 4, "log_every": 1}
    process = start(tmp_path, training=training, slow_save=0.5)
    wait_for(process, lambda: (checkpoints / "00000004").exists() and (checkpoints / ".saving-00000008").exists())
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in sorted(checkpoints.iterdir())] == [".saving-00000008", "00000004"]
    process = start(tmp_path, training=training, delay=0.3)
    wait_for(process, lambda: (checkpoints / "00000012").exists())
    process.kill()
    process.communicate()
    assert find_checkpoints(checkpoints)[-1].step == 12
    train(
        tiny_config(training={"log_every": 1}), tmp_path, data=tiny_data(), devices=tuple(jax.devices()[:1]), quiet=True
    )
    jax.tree.map(np.testing.assert_array_equal, final(tmp_path), final(straight))
    losses = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    assert [line["step"] for line in losses] == list(range(1, 21))


def test_sigterm_to_a_process_saves_and_exits_143_and_until_then_it_is_alone(tmp_path):
    process = start(tmp_path, training={"steps": 10_000, "log_every": 1}, delay=0.02)
    wait_for(process, lambda: (tmp_path / "metrics.jsonl").exists() and (tmp_path / "metrics.jsonl").stat().st_size)
    with pytest.raises(BusyError, match=f"in use by process {process.pid} on "):
        train(tiny_config(), tmp_path, data=tiny_data())
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 143, error
    result = json.loads(out)
    assert find_checkpoints(tmp_path / "checkpoints")[-1].step == result["step"] > 0
    assert f"stopped by SIGTERM after step {result['step']}; the same command resumes." in error


def test_two_processes_are_one_run(straight, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    for steps in (10, 20):  # and resume as two
        both = [
            start(tmp_path, training={"steps": steps}, coordinator=coordinator, num_processes=2, process_id=i)
            for i in range(2)
        ]
        outputs = [process.communicate(timeout=200) for process in both]
        assert [process.returncode for process in both] == [0, 0], outputs
    results = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    assert results[0]["step"] == results[1]["step"] == 20
    assert results[0]["held_out_loss"] == results[1]["held_out_loss"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=5e-6), final(tmp_path), final(straight))
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [5, 10, 10, 15, 20, 20]


def test_flags_of_several_processes_are_refused_before_they_crash():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"--coordinator localhost:{port}: the port is taken"):
            initialize(f"localhost:{port}", 2, 0)
    with pytest.raises(UsageError, match="go together; give all three or none"):
        initialize("localhost:1234", 2, None)
    with pytest.raises(UsageError, match=r"--process-id is 2 of --num-processes 2; they count from 0"):
        initialize("localhost:1234", 2, 2)
    with pytest.raises(UsageError, match="give host:port of process 0"):
        initialize("localhost", 2, 0)
    initialize()  # nothing to join
    assert jax.process_count() == 1
