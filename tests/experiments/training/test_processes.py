"""Real processes: killed, asked to stop, or several as one run."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.errors import BusyError, UsageError
from experiments.training import distributed, peers
from experiments.training.checkpoint import find_checkpoints, load
from experiments.training.distributed import initialize
from experiments.training.loop import train
from tests.conftest import XLA_FLAGS
from tests.experiments.training.tiny_run import tiny_config, tiny_data

ROOT, ONE = Path(__file__).parents[3], tuple(jax.devices()[:1])
# A program that another process is just writing to the compilation cache is compiled once more.
WARNINGS = ("-W", "error", "-W", "ignore:Error reading persistent compilation cache entry")
# To look for garbage among what it imports takes an eighth of such a process's time.
PROGRAM = """
import gc, sys
gc.disable()
from tests.experiments.training import tiny_run
sys.exit(tiny_run.main(sys.argv[1:]))
"""


@pytest.fixture
def start(tmp_path):
    """Start a run in `tmp_path` as a process, which ends with the test at the latest."""
    started = []

    def begin(**options):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        # One device each, whatever this process was given; all else alike, for XLA's flags have a part in rounding.
        flags = re.sub(r"(device_count)=\d+", r"\1=1", XLA_FLAGS)
        environment["XLA_FLAGS"] = flags
        outdir = options.pop("outdir", str(tmp_path))
        command = [sys.executable, *WARNINGS, "-c", PROGRAM, outdir, json.dumps(options)]
        started.append(subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def lines(outdir):
    path = outdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(process, condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def final(outdir):
    return load(outdir / "checkpoints" / "00000020")[0]


def test_a_run_killed_twice_is_the_run_that_was_not(straight, tmp_path, start):
    checkpoints = tmp_path / "checkpoints"
    # Killed in the middle of a save, then between saves.
    training = {"checkpoint_every": 4, "log_every": 1}
    process = start(training=training, slow_save=0.5)
    wait_for(process, lambda: (checkpoints / "00000004").exists() and (checkpoints / ".saving-00000008").exists())
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert [path.name for path in sorted(checkpoints.iterdir())] == [".saving-00000008", "00000004"]
    process = start(training=training, delay=0.1)
    wait_for(process, lambda: (checkpoints / "00000012").exists())
    process.kill()
    process.wait()
    assert find_checkpoints(checkpoints)[-1].step == 12
    train(tiny_config(training={"log_every": 1}), tmp_path, data=tiny_data(), devices=ONE, quiet=True)
    jax.tree.map(np.testing.assert_array_equal, final(tmp_path), final(straight))
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == list(range(1, 21))


@pytest.fixture
def both(start):
    """Start two processes of one run; `other` are options of the second that differ."""

    def begin(other=None, **options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
        return [
            start(coordinator=coordinator, num_processes=2, process_id=i, **{**options, **((i and other) or {})})
            for i in range(2)
        ]

    return begin


def test_two_processes_with_different_commands_refuse_in_a_line_each(tmp_path, both):
    """They once trained together, each at its own rate, and the files told of one of them."""
    processes = both(other={"optimizer": {"learning_rate": 0.5}})
    errors = [process.communicate(timeout=200)[1].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [2, 2], errors
    assert errors[0][-1] == (
        "process 1 was started with something else than process 0, and its own line says what; start all alike."
    )
    assert errors[1][-1].startswith("process 1 has --optimizer.learning-rate 0.5, and process 0 0.003;")
    assert not list((tmp_path / "checkpoints").glob("*"))


@pytest.mark.parametrize("which", [0, 1])
def test_a_source_that_one_process_alone_begins_from_is_refused_in_a_line_each(which, tmp_path, both):
    """Each once waited for what the other never sends: the one was aborted, or found a checkpoint that never was."""
    source = [None, None]
    source[which] = "elsewhere"
    processes = both(init_from=source[0], other={"init_from": source[1]})
    errors = [process.communicate(timeout=200)[1].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [2, 2], errors
    first, second = (place and f"{place} (average 0)" for place in source)
    assert errors[1][-1].startswith(f"process 1 has --init-from {second}, and process 0 {first};")
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_what_process_0_refuses_all_say(straight, tmp_path, both):
    """A run of another seed is in the folder, which process 0 alone looks into."""
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    errors = [process.communicate(timeout=200)[1].splitlines()[-1] for process in both(training={"seed": 5})]
    assert errors[0] == errors[1]
    assert "holds a run with --training.seed 0, and this command says 5" in errors[0]


def test_two_processes_are_one_run_and_stop_as_one(straight, tmp_path, start, both):
    """And until then they are alone; SIGTERM to either saves, and both exit with 143."""

    def ends(processes, status):
        outputs = [process.communicate(timeout=200) for process in processes]
        assert [process.returncode for process in processes] == [status, status], outputs
        return [json.loads(out.splitlines()[-1]) for out, _ in outputs], outputs[0][1]

    processes = both(training={"log_every": 1}, delay=0.3)
    wait_for(processes[0], lambda: lines(tmp_path))
    with pytest.raises(BusyError, match=f"in use by process {processes[0].pid} on "):
        train(tiny_config(), tmp_path, data=tiny_data())
    processes[1].send_signal(signal.SIGTERM)
    first, error = ends(processes, 143)
    assert find_checkpoints(tmp_path / "checkpoints")[-1].step == first[0]["step"] == first[1]["step"]
    assert 0 < first[0]["step"] < 20
    assert f"stopped by SIGTERM after step {first[0]['step']}; the same command resumes." in error
    second, _ = ends(both(training={"log_every": 1}), 0)
    assert second[0] == second[1]
    assert second[0]["step"] == 20
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=5e-6), final(tmp_path), final(straight))
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == list(range(1, 21))


@pytest.fixture(scope="module")
def undisturbed():
    """A function: the parameters after the last step of a run of two processes, made once."""
    made = {}

    def run(both, tmp_path):
        if not made:
            outdir = tmp_path / "undisturbed"
            for process in both(outdir=str(outdir)):
                _, error = process.communicate(timeout=200)
                assert process.returncode == 0, error
            made["final"] = final(outdir)
        return made["final"]

    return run


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_other_in_a_line_and_the_run_goes_on(tmp_path, both, undisturbed, victim):
    """The other was once aborted by JAX, with a page of stack."""
    processes = both(delay=0.3)
    wait_for(processes[0], lambda: (tmp_path / "checkpoints" / "00000010").exists())
    processes[victim].kill()
    error = processes[1 - victim].communicate(timeout=60)[1]
    assert processes[1 - victim].returncode == peers.LOST, error
    last = error.splitlines()[-1]
    assert last.startswith(f"scorefield: error: process {victim} of this run is lost (its connection was closed:")
    assert last.endswith("; the newest checkpoint is 00000010; start all processes again to go on.")
    assert not any(word in error for word in ("Traceback", "Check failure", "coordination"))
    for process in both():
        _, error = process.communicate(timeout=200)
        assert process.returncode == 0, error
    jax.tree.map(np.testing.assert_array_equal, final(tmp_path), undisturbed(both, tmp_path))


def test_an_error_of_one_process_ends_the_other_with_its_reason_and_status(both):
    processes = both(other={"fails_at": 12})
    errors = [process.communicate(timeout=200)[1].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [3, 3], errors
    assert errors[0][-1] == "scorefield: error: process 1 of this run: an image is gone."
    assert errors[1][-1] == "an image is gone."


def test_flags_of_several_processes_are_refused_before_they_crash(monkeypatch):
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
    for none in ("99999", "0", "123456789"):
        with pytest.raises(UsageError, match=f"--coordinator is 'localhost:{none}'; give a port from 1 to 65535"):
            initialize(f"localhost:{none}", 2, 0)
    monkeypatch.setattr(distributed, "_START_SECONDS", 0.3)
    with pytest.raises(UsageError, match=rf"localhost:{port} does not answer \(.*\); start process 0"):
        initialize(f"localhost:{port}", 2, 1)
    initialize()  # nothing to join
    assert jax.process_count() == 1
