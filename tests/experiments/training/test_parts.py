"""The loop's helpers: work ahead, the log, what may change when a run goes on, the data."""

import dataclasses
import errno
import io
import json
import resource
import signal
import subprocess
import sys
import threading
import types

import jax
import numpy as np
import optax
import pytest

from experiments.config.file import save_config
from experiments.config.nodes import SamplingConfig
from experiments.data import Source
from experiments.data.config import DataConfig
from experiments.errors import CheckpointError, DataError, UsageError
from experiments.tracking.board import Board
from experiments.tracking.json_lines import truncate
from experiments.training.data import Facts, open_data, require_same_data
from experiments.training.distributed import from_process_0, in_cluster
from experiments.training.interrupt import interruption, leaving
from experiments.training.lock import run_lock
from experiments.training.logging import Recorder, RichDisplay, StepRecord, make_display
from experiments.training.placement import make_replicas
from experiments.training.prefetch import prefetch
from experiments.training.resume import check_config, differences, with_own_rules
from experiments.training.state import initial_state
from tests.experiments.training.tiny_run import tiny_config, tiny_data


def test_prefetch_keeps_the_order_and_runs_ahead_and_not_further():
    begun, enough = [], threading.Event()

    def work(item):
        begun.append(item)
        if item == 2:
            enough.set()
        return item * item

    ahead = prefetch(work, range(10), depth=2)
    assert next(ahead) == 0
    assert enough.wait(10)
    assert begun == [0, 1, 2]
    assert list(ahead) == [i * i for i in range(1, 10)]


def test_prefetch_raises_in_its_turn_and_stops_when_it_is_closed():
    ahead = prefetch(lambda item: 1 // (3 - item), range(100))
    assert [next(ahead) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(ahead)
    begun = []
    ahead = prefetch(begun.append, range(100))
    next(ahead)
    ahead.close()
    assert len(begun) <= 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def records(*losses):
    return [StepRecord(loss, 2 * loss, 0.1, 1.0) for loss in losses]


def test_log_has_means_and_is_cut_where_a_run_resumes(tmp_path, capsys):
    config = tiny_config(training={"steps": 7, "log_every": 2})
    recorder = Recorder(config, tmp_path, 0)
    for step, record in enumerate(records(1, 2, 3, 5, 4, 6, 8), 1):
        recorder.record(step, record)
    recorder.write(7, held_out_loss=0.25)
    recorder.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line.get("loss")) for line in lines] == [(2, 1.5), (4, 4.0), (6, 5.0), (7, 8.0), (7, None)]
    assert [line["grad_norm"] for line in lines[:4]] == [3.0, 8.0, 10.0, 16.0]
    assert lines[4] == {"step": 7, "held_out_loss": 0.25}
    assert recorder.loss == 8.0
    assert "step 6/7  loss 5  " in capsys.readouterr().err
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3')
    Recorder(config, tmp_path, 4, quiet=True).close()
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == [json.dumps(line) for line in lines[:2]]
    truncate(tmp_path / "no.jsonl", 3)


@pytest.mark.parametrize(
    "bad", [b"\xff{}", b"[1]", b'{"step": "2"}', b'{"step": true}', b"[" * 9000, b'{"step": 2', b""]
)
def test_a_damaged_line_of_metrics_is_left_out_with_a_word(tmp_path, capsys, bad):
    good = [b'{"step": 1, "loss": 0.5}\n', b'{"step": 2, "loss": 0.4}\n']
    (tmp_path / "metrics.jsonl").write_bytes(good[0] + bad + b"\n" + good[1] + b'{"ste')
    Recorder(tiny_config(), tmp_path, 2, quiet=True).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(good)
    assert capsys.readouterr().err == f"scorefield: {tmp_path / 'metrics.jsonl'} had 1 damaged line, now left out.\n"


def test_a_line_of_metrics_that_finds_no_room_is_missed_and_the_next_is_whole(tmp_path, capsys):
    """Here the disk is a limit on the size of a file, which cuts the second line short."""
    recorder, limits = Recorder(tiny_config(), tmp_path, 0, quiet=True), resource.getrlimit(resource.RLIMIT_FSIZE)
    recorder.write(1, loss=0.5)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30, limits[1]))
        for step in (2, 3):
            recorder.write(step, loss=0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    recorder.write(4, loss=0.5)
    recorder.close()
    first, second = capsys.readouterr().err.splitlines()
    assert "metrics.jsonl lacks its line of step 2 (it was cut short); the training goes on" in first
    assert "metrics.jsonl lacks its line of step 3 (File too large); the training goes on" in second
    Recorder(tiny_config(), tmp_path, 9, quiet=True).close()
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 4]


@pytest.mark.parametrize("there", [True, False])
def test_metrics_are_not_written_through_a_link(tmp_path, there):
    theirs, path = tmp_path / "theirs", tmp_path / "metrics.jsonl"
    if there:
        theirs.write_text('{"step": 1}\n')
    path.symlink_to(theirs)
    recorder = Recorder(tiny_config(), tmp_path, 1, quiet=True)
    recorder.write(2, loss=0.5)
    recorder.close()
    assert path.read_text() == '{"step": 1}\n' * there + '{"step": 2, "loss": 0.5}\n'
    assert (theirs.read_text() if there else theirs.exists()) == ('{"step": 1}\n' if there else False)


def test_tensorboard_is_optional_and_continues_at_the_step(tmp_path, monkeypatch):
    config = tiny_config(training={"tensorboard": True, "log_every": 1})
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UsageError, match=r"install scorefield\[tensorboard\]"):
        Recorder(config, tmp_path, 0, quiet=True)
    files = tensorboard(monkeypatch)
    recorder = Recorder(config, tmp_path, 5, quiet=True)
    recorder.record(6, records(1.0)[0])
    recorder.close()
    (name, events), *others = files.items()
    assert name == str(tmp_path / "tensorboard" / "events") + ".0"
    assert events[1] == {"step": 6, "session_log": "start"}
    assert {"step": 6, "summary": ("loss", 1.0)} in events
    assert events[-2:] == ["flushed", "closed"]
    assert not others


def test_a_full_disk_takes_scalars_from_tensorboard_and_no_more(tmp_path, monkeypatch, capsys):
    """Its own writer once died on a thread, with a traceback, and the training then waited for it for ever."""
    files = tensorboard(monkeypatch)
    board = Board(tmp_path / "tensorboard", 0)
    board.log(1, {"loss": 1.0})
    files["full"] = True
    board.log(2, {"loss": 2.0})
    board.log(3, {"loss": 3.0})
    assert capsys.readouterr().err == "".join(
        f"scorefield: tensorboard/ lacks its values of step {step} (No space left on device); the training goes on, so "
        "make room.\n"
        for step in (2, 3)
    )
    del files["full"]
    board.log(4, {"loss": 4.0})
    board.close()
    first, *_, last = files.values()
    assert {"step": 1, "summary": ("loss", 1.0)} in first
    assert last == [*last[:1], {"step": 4, "session_log": "start"}, {"step": 4, "summary": ("loss", 4.0)}, *last[3:]]


def tensorboard(monkeypatch):
    """What is written to each file by a tensorboardX that is not there; with "full" among them, nothing."""
    files = {}

    class Writer:
        def __init__(self, prefix, suffix):
            self.events = files.setdefault(prefix + suffix, [])

        def write_event(self, event):
            self.events.append({name: value for name, value in event.items() if name != "wall_time"})

        def flush(self):
            if "full" in files:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.events.append("flushed")

        def close(self):
            self.flush()
            self.events.append("closed")

    def log(status):
        return status

    vars(log)["START"] = "start"
    parts = {
        "": {},
        ".proto": {},
        ".event_file_writer": {"EventsWriter": Writer},
        ".proto.event_pb2": {"Event": dict, "SessionLog": log},
        ".summary": {"scalar": lambda name, value: (name, value), "text": lambda name, text: (name, "text")},
    }
    for name, holds in parts.items():
        monkeypatch.setitem(sys.modules, f"tensorboardX{name}", types.SimpleNamespace(**holds))
    return files


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    display = make_display(0, 10)
    assert isinstance(display, RichDisplay)
    display.progress(5, "step 5/10  loss [1]")
    display.say("held-out [2]")
    display.close()
    assert "held-out [2]" in terminal.getvalue()
    assert "loss [1]" in terminal.getvalue()


def test_what_a_run_holds_says_in_a_line_what_it_is():
    data = tiny_data()
    assert repr(data.facts) == "Facts(8×8×1, 4 classes, data unknown)"
    assert repr(data) == f"RunData({data.facts!r}, 2 held-out batches)"
    state = initial_state({"w": np.zeros((3, 4)), "b": np.zeros(4)}, optax.sgd(0.1), tiny_config())
    assert repr(state) == "TrainState(step 0, 16 parameters, 2 averages)"
    source = Source(images=np.zeros((1200, 8, 8, 1), np.uint8), labels=np.arange(1200) % 3, name="mine")
    assert repr(source) == "Source(mine: 1,200 of 8×8×1 in 3 classes)"


def test_what_may_change_when_a_run_goes_on():
    config = tiny_config()
    free = tiny_config(
        training={"steps": 99, "log_every": 7, "keep_last": 9, "steps_per_dispatch": 2, "sample_every": 3},
        sampling=SamplingConfig(steps=5),
        data=DataConfig(source="folder:moved", memory_gib=1.0),
    )
    assert differences(config, free) == []
    assert differences(config, tiny_config(ema={"warmup": False})) == [("ema.warmup", True, False)]
    assert differences(config, tiny_config(training={"seed": 3})) == [("training.seed", 0, 3)]
    cosine = {"decay": "cosine"}  # where the end decides about every step
    longer = differences(tiny_config(optimizer=cosine), tiny_config(optimizer=cosine, training={"steps": 30}))
    assert longer == [("training.steps", 20, 30)]


def test_a_folder_of_another_run_is_refused(tmp_path):
    check_config(tiny_config(), tmp_path, has_checkpoints=False)
    with pytest.raises(
        CheckpointError, match=r"neither .*config\.json nor a checkpoint beside it can be trusted; .*--re"
    ):
        check_config(tiny_config(), tmp_path, has_checkpoints=True)
    check_config(tiny_config(), tmp_path, has_checkpoints=True, restart=True)
    save_config(tiny_config(), tmp_path / "config.json")
    check_config(tiny_config(), tmp_path, has_checkpoints=True)
    other = dataclasses.replace(tiny_config(training={"batch_size": 16}), conditional=False, label_dropout=0.0)
    sentence = r"--conditional True, and this command says False \(and label-dropout, training.batch-size differ too\);"
    with pytest.raises(UsageError, match=sentence):
        check_config(other, tmp_path, has_checkpoints=True)
    # What was stopped before its first checkpoint is no run yet, and stands in nobody's way.
    (tmp_path / "samples").mkdir()
    check_config(other, tmp_path, has_checkpoints=False)
    assert (tmp_path / "samples.1").is_dir()
    assert not (tmp_path / "samples").exists()
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UsageError, match="cannot be written"), run_lock(file):
        pass


@pytest.fixture
def interruptible():
    """SIGINT as a terminal has it: a shell starts what it sends to the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_signal_acts_at_once(interruptible):
    with interruption() as request:
        assert request.signum is None
        signal.raise_signal(signal.SIGINT)
        assert request.signum == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_before_the_first_step_ends_the_process_whatever_it_is_at(signum):
    """Here a digest of a thousand million rounds, in which Python hears nothing, as in a compilation.

    `sys.stderr` is another, as it is while the command line is read; there the word was lost.
    """
    program = (
        "import contextlib, hashlib, io, os, threading\n"
        "from experiments.training.interrupt import interruption, leaving\n"
        f"threading.Timer(0.1, os.kill, (os.getpid(), {signum:d})).start()\n"
        "with leaving(), interruption(), contextlib.redirect_stderr(io.StringIO()):\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 7
    assert ended.stderr == (
        f"scorefield: stopped by {signal.Signals(signum).name} before the first step; there was nothing to save.\n"
    )


def test_a_signal_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruption() as request:
            signal.raise_signal(signal.SIGHUP)
            assert request.signum is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_after_the_first_step_is_a_request_within_a_command_too(interruptible):
    with leaving(), interruption() as request:
        request.begin()
        signal.raise_signal(signal.SIGINT)
        assert request.signum == signal.SIGINT
        with interruption() as same:
            assert same is request
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.set_wakeup_fd(-1) == -1


def test_one_process_is_no_cluster(monkeypatch):
    tree = {"a": np.float32(-0.0)}
    assert from_process_0(tree) is tree
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    assert not in_cluster()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert in_cluster()


def test_every_device_gets_its_slots_of_every_step():
    replicas = make_replicas(tiny_config(), tuple(jax.devices()[:4]))
    slots = replicas.split([tiny_data().batches[step] for step in range(3)])["slot"]
    np.testing.assert_array_equal(slots, np.broadcast_to(np.arange(8).reshape(4, 1, 2), (4, 3, 2)))
    assert [shard.data.shape for shard in slots.addressable_shards] == [(1, 3, 2)] * 4
    whole = replicas.place({"a": np.arange(3)})["a"]
    assert [shard.data.shape for shard in whole.addressable_shards] == [(3,)] * 4


def test_classes_need_labels(tmp_path):
    np.savez(tmp_path / "bare.npz", images=np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8))
    config = dataclasses.replace(tiny_config(), data=DataConfig(source=f"npz:{tmp_path / 'bare.npz'}"))
    with pytest.raises(UsageError, match=r"--conditional needs classes, and npz:.*bare\.npz has none"):
        open_data(config)
    assert open_data(dataclasses.replace(config, conditional=False)).facts.num_classes == 0


def test_data_of_a_run_are_fixed_by_its_seeds():
    config = tiny_config(training={"validate_every": 1})
    data, again = open_data(config), open_data(config)
    assert data.facts == again.facts
    assert data.facts.event_shape == (8, 8, 1)
    assert data.facts.num_classes == 10
    jax.tree.map(np.testing.assert_array_equal, data.batches[7], again.batches[7])
    assert data.batches[7]["image"].shape == (8, 8, 8, 1)
    assert len(data.held_out) == 16
    jax.tree.map(np.testing.assert_array_equal, list(data.held_out), list(again.held_out))
    other = open_data(dataclasses.replace(config, data=DataConfig(seed=1)))
    with pytest.raises(DataError, match="the images or labels"):
        require_same_data(data.facts, other.facts)
    with pytest.raises(DataError, match="the shape or classes"):
        require_same_data(data.facts, tiny_data().facts)
    assert Facts.from_json({**data.facts.to_json(), "more": 1}) == data.facts


def test_a_run_that_goes_on_keeps_the_rules_by_which_it_reads_its_data(tmp_path):
    config = tiny_config()
    older = dataclasses.replace(config, data=dataclasses.replace(config.data, rules=1))
    save_config(older, tmp_path / "config.json")
    assert with_own_rules(config, tmp_path) == config  # nothing was trained yet, so it begins anew
    (tmp_path / "checkpoints" / "00000001").mkdir(parents=True)
    older = dataclasses.replace(older, data=dataclasses.replace(older.data, loading="memory"))  # their form is kept too
    assert with_own_rules(config, tmp_path) == older
    check_config(with_own_rules(config, tmp_path), tmp_path, has_checkpoints=True)
    assert with_own_rules(older, tmp_path, told=True) == older
    with pytest.raises(UsageError, match=r"holds a run with --data.rules 1, and this command says 2; leave it out"):
        with_own_rules(config, tmp_path, told=True)
    save_config(config, tmp_path / "config.json")
    with pytest.raises(UsageError, match=r"holds a run with --data.rules 2, and this command says 1; leave it out"):
        with_own_rules(older, tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert with_own_rules(config, tmp_path) == config  # what is wrong is said by `check_config`
