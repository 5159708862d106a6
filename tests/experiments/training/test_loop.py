"""The loop in one process: devices, dispatches and interruptions change nothing but the time it takes."""

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.errors import BusyError, DataError, DivergedError, UsageError
from experiments.training import loop
from experiments.training.checkpoint import find_checkpoints, load
from experiments.training.interrupt import SIGNALS
from experiments.training.lock import run_lock
from experiments.training.loop import TrainResult, train, training
from experiments.training.manifest import verify
from experiments.training.plan import dispatches
from experiments.training.programs import make_programs
from experiments.training.replicas import Replicas
from tests.experiments.training.tiny_run import BATCH, TinyBatches, tiny_config, tiny_data

pytestmark = pytest.mark.usefixtures("shared_programs")
ONE, FOUR = tuple(jax.devices()[:1]), tuple(jax.devices()[:4])


def final(outdir, step=20):
    return load(outdir / "checkpoints" / f"{step:08d}")[0]


def lines(outdir):
    return [json.loads(line) for line in (outdir / "metrics.jsonl").read_text().splitlines()]


def same(a, b, rtol=0.0, atol=0.0):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


class Reading(TinyBatches):
    """Remembers which batches were asked for."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def __getitem__(self, step):
        self.steps.append(step)
        return super().__getitem__(step)


def test_four_devices_make_the_same_parameters_as_one(straight, tmp_path):
    result = train(tiny_config(), tmp_path, data=tiny_data(), devices=FOUR, quiet=True)
    assert result.step == 20
    # Adam divides gradients near zero by themselves, rounding errors included: 0.2% of the distance of one update.
    same(final(tmp_path), final(straight), rtol=1e-5, atol=5e-6)
    for one, four in zip(lines(straight), lines(tmp_path), strict=True):
        same({**one, "images_per_second": 0}, {**four, "images_per_second": 0}, rtol=1e-5)


def test_resumed_run_is_the_straight_run_to_the_bit(straight, tmp_path):
    first = train(tiny_config(training={"steps": 10}), tmp_path, data=tiny_data(), devices=ONE, quiet=True)
    assert first == TrainResult(10, first.loss, first.held_out_loss, tmp_path / "checkpoints" / "00000010", None)
    # A kill may leave lines that are ahead of the checkpoint, and half a line.
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 15, "loss": 9.0}\n{"step": 2')
    read = Reading()
    second = train(
        tiny_config(), tmp_path, data=dataclasses.replace(tiny_data(), batches=read), devices=ONE, quiet=True
    )
    assert second.step == 20
    assert read.steps == list(range(10, 20))
    same(final(tmp_path), final(straight))
    names = [{"loss", "grad_norm", "learning_rate"} & line.keys() or {"held_out_loss"} for line in lines(straight)]
    values = [
        [{n: line[n] for n in (*some, "step")} for line, some in zip(lines(out), names, strict=True)]
        for out in (straight, tmp_path)
    ]
    assert values[0] == values[1]
    assert [line["step"] for line in lines(tmp_path)] == [5, 10, 10, 15, 20, 20]
    done = train(tiny_config(), tmp_path, data=tiny_data(), devices=ONE, quiet=True)
    assert (done.step, done.loss, done.held_out_loss, done.exit_status) == (20, second.loss, second.held_out_loss, 0)


def test_run_of_four_devices_goes_on_with_one(straight, tmp_path):
    train(tiny_config(training={"steps": 10}), tmp_path, data=tiny_data(), devices=FOUR, quiet=True)
    train(tiny_config(), tmp_path, data=tiny_data(), devices=ONE, quiet=True)
    same(final(tmp_path), final(straight), rtol=1e-5, atol=5e-6)


def test_several_steps_in_one_dispatch_are_the_same_steps(straight, tmp_path, monkeypatch):
    # As on an accelerator: the steps of a dispatch are a scan, and the host runs ahead of the device.
    monkeypatch.setattr(Replicas, "on_cpu", False)
    config = tiny_config(training={"steps_per_dispatch": 4})
    assert list(dispatches(config, 0))[:4] == [(0, 4), (4, 4), (8, 1), (9, 1)]
    train(config, tmp_path, data=tiny_data(), devices=ONE, quiet=True)
    same(final(tmp_path), final(straight), rtol=1e-5, atol=5e-6)
    assert [line["step"] for line in lines(tmp_path)] == [5, 10, 10, 15, 20, 20]


@pytest.mark.parametrize("start", [0, 3, 17])
def test_dispatches_cover_every_step_once_and_stop_at_what_is_due(start):
    training = {"steps": 103, "steps_per_dispatch": 8, "checkpoint_every": 30, "validate_every": 20, "sample_every": 0}
    plan = list(dispatches(tiny_config(training=training), start))
    assert [step for first, length in plan for step in range(first, first + length)] == list(range(start, 103))
    ends = {first + length for first, length in plan}
    assert ends >= {step for step in range(start + 1, 104) if step % 30 == 0 or step % 20 == 0}
    assert {length for _, length in plan} == {1, 8}


def test_every_program_is_traced_once_and_samples_see_the_average(straight, tmp_path, monkeypatch):
    traced, seen = [], {}
    make = loop.make_objective

    def counting(*arguments):
        objective = make(*arguments)

        def counted(params, key, batch, second_moments, train):
            traced.append(train)
            return objective(params, key, batch, second_moments, train)

        return counted

    monkeypatch.setattr(loop, "make_objective", counting)
    monkeypatch.setattr(loop, "make_programs", make_programs)  # of its own, for tracing is what is counted
    config = tiny_config(training={"sample_every": 10})
    train(
        config,
        tmp_path,
        data=tiny_data(),
        devices=ONE,
        quiet=True,
        on_sample=lambda step, params: seen.update({step: jax.tree.map(np.array, params)}),
    )
    assert sorted(traced) == [False, True]
    assert seen.keys() == {10, 20}
    same(seen[20], final(straight)["ema"]["0"])
    assert not np.allclose(seen[10]["out"]["kernel"], seen[20]["out"]["kernel"])


def test_no_checkpoint_is_there_without_the_picture_of_its_step(tmp_path):
    """What is killed after a step was saved goes on after that step, and nothing would draw its picture any more."""
    there, config = {}, tiny_config(training={"sample_every": 5, "checkpoint_every": 5})

    def draw(step, params):
        there[step] = [checkpoint.step for checkpoint in find_checkpoints(tmp_path / "checkpoints")]
        assert not list((tmp_path / "checkpoints").glob(f".saving-{step:08d}"))

    train(config, tmp_path, data=tiny_data(), devices=ONE, quiet=True, on_sample=draw)
    assert there.keys() == {5, 10, 15, 20}
    assert all(step not in steps for step, steps in there.items())
    assert find_checkpoints(tmp_path / "checkpoints")[-1].step == 20


def test_a_signal_takes_no_picture_away(tmp_path):
    drawn, config = [], tiny_config(training={"sample_every": 1})

    def draw(step, params):
        drawn.append(step)
        if step == 7:
            signal.raise_signal(signal.SIGTERM)

    result = train(config, tmp_path, data=tiny_data(), devices=ONE, quiet=True, on_sample=draw)
    assert result.step == drawn[-1] == 8


class Poisoned(TinyBatches):
    """Batch 13, which makes step 14, has labels that no class has: the network answers NaN."""

    def __getitem__(self, step):
        batch = super().__getitem__(step)
        return {**batch, "label": np.full(BATCH, 77, np.int32)} if step == 13 else batch


def test_divergence_stops_and_names_the_step_and_spares_the_last_checkpoint(tmp_path, capsys):
    data = dataclasses.replace(tiny_data(), batches=Poisoned())
    for _ in range(2):  # the second time from the checkpoint
        with pytest.raises(DivergedError) as error:
            train(tiny_config(training={"log_every": 1}), tmp_path, data=data, devices=ONE)
        sentence = str(error.value)
        assert sentence.startswith("step 14 is not finite (loss nan")
        assert "the last good checkpoint is 00000010; train in another --outdir with a lower" in sentence
        assert "\n" not in sentence
        assert [checkpoint.step for checkpoint in find_checkpoints(tmp_path / "checkpoints")] == [10]
        verify(tmp_path / "checkpoints" / "00000010")
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == list(range(1, 14))
    assert "step 13/20  loss" in capsys.readouterr().err


def test_what_cannot_be_trained_is_refused_before_a_file_is_written(tmp_path):
    outdir = tmp_path / "run"
    with pytest.raises(UsageError, match="batch-size 6 is not a multiple of 4 devices; give 8"):
        train(tiny_config(training={"batch_size": 6}), outdir, data=tiny_data(), devices=FOUR)
    config = tiny_config(optimizer={"accumulate": 4})
    with pytest.raises(UsageError, match=r"of 4 devices times --optimizer\.accumulate 4; give 16"):
        train(config, outdir, data=tiny_data(), devices=FOUR)
    assert not outdir.exists()
    outdir.write_text("a file")
    with pytest.raises(UsageError, match="cannot be made"):
        train(tiny_config(), outdir, data=tiny_data())


def test_another_configuration_or_other_data_do_not_continue_a_run(straight):
    config = tiny_config(optimizer={"learning_rate": 0.5}, training={"log_every": 1})
    with pytest.raises(UsageError, match=r"a run with --optimizer.learning-rate 0.003, and this command says 0.5;"):
        train(config, straight, data=tiny_data(), devices=ONE)
    data = tiny_data()
    other = dataclasses.replace(data, facts=dataclasses.replace(data.facts, fingerprint="changed"))
    with pytest.raises(DataError, match=r"the images or labels of --data\.source are not those"):
        train(tiny_config(), straight, data=other, devices=ONE)
    assert final(straight)["step"] == 20


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_run_with_a_checkpoint_and_its_exit_status(straight, tmp_path, signum, status):
    before = signal.getsignal(signum)
    config = tiny_config(training={"sample_every": 7})
    result = train(
        config, tmp_path, data=tiny_data(), devices=ONE, quiet=True, on_sample=lambda *_: signal.raise_signal(signum)
    )
    assert (result.step, result.exit_status, result.signum) == (8, status, signum)
    assert result.checkpoint == tmp_path / "checkpoints" / "00000008"
    assert signal.getsignal(signum) is before
    train(tiny_config(), tmp_path, data=tiny_data(), devices=ONE, quiet=True)
    same(final(tmp_path), final(straight))


def test_a_second_training_is_kept_out(tmp_path):
    with run_lock(tmp_path), pytest.raises(BusyError, match=r"that this process has not closed; write"):
        train(tiny_config(), tmp_path, data=tiny_data())
    with run_lock(tmp_path):
        (tmp_path / "lock").write_text("process 1 on elsewhere\n")
        with pytest.raises(BusyError, match=r"in use by process 1 on elsewhere; wait for it, or"):
            train(tiny_config(), tmp_path, data=tiny_data())
    with run_lock(tmp_path):  # and the lock ends with its holder
        pass


def test_a_training_in_a_variable_is_saved_when_the_script_ends(tmp_path):
    script = (
        "import gc; gc.disable()\n"
        "import jax\n"
        "from experiments.training.loop import training\n"
        "from tests.experiments.training.tiny_run import tiny_config, tiny_data\n"
        f"steps = training(tiny_config(), {str(tmp_path)!r}, data=tiny_data(), devices=jax.devices()[:1])\n"
        "for step in steps:\n"
        "    if step.step == 3: break\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    if sys.version_info[:2] == (3, 12):  # which starts no thread any more when a script has ended
        assert "could not be saved at exit" in done.stderr
        return
    assert "could not be saved" not in done.stderr
    assert [found.step for found in find_checkpoints(tmp_path / "checkpoints")] == [3]


def test_what_is_not_a_configuration_is_refused_before_the_folder_is_made(tmp_path):
    with pytest.raises(UsageError, match=r"config is 'digits-ddpm'; give a Config, such as scorefield.preset\("):
        training("digits-ddpm", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"training": {"steps": 2.5}}, "config.training.steps is 2.5; give int"),
        ({"training": {"steps": "12"}}, "config.training.steps is '12'; give int"),
        ({"schedule": "edm"}, "config.schedule is 'edm'; give "),
        ({"optimizer": {"decay": "cosin"}}, "config.optimizer.decay is 'cosin'; give typing.Literal"),
        ({"network": None}, "config.network is None; give "),
    ],
)
def test_a_value_that_could_not_be_read_back_is_refused(tmp_path, wrong, sentence):
    with pytest.raises(UsageError, match=sentence):
        training(tiny_config(**wrong), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_error_in_the_data_is_raised_as_it_is(tmp_path):
    class Broken(TinyBatches):
        def __getitem__(self, step):
            if step == 3:
                raise DataError("image 3 is torn")
            return super().__getitem__(step)

    with pytest.raises(DataError, match="image 3 is torn"):
        train(tiny_config(), tmp_path, data=dataclasses.replace(tiny_data(), batches=Broken()), devices=ONE, quiet=True)


def test_a_loop_whose_body_is_the_callers_makes_the_parameters_of_one_call(straight, tmp_path):
    before = [signal.getsignal(signum) for signum in SIGNALS]
    steps = training(tiny_config(), str(tmp_path), data=tiny_data(), devices=ONE)
    assert not list(tmp_path.iterdir())  # nothing has begun
    seen, kept, held_out = [], {}, {}
    for step in steps:
        seen.append(step.loss)
        held_out[step.step] = step.held_out_loss
        if step.step % 4 == 0:
            kept[step.step] = (step.params, step.ema)
        assert [signal.getsignal(signum) for signum in SIGNALS] == before
        assert step.is_checkpoint == (step.step in (10, 20))
    assert len(seen) == 20
    same(final(tmp_path), final(straight))
    assert steps.result == dataclasses.replace(steps.result, step=20, signum=None, loss=lines(straight)[-2]["loss"])
    assert repr(steps) == f"Training({tmp_path}, step 20 of 20)"
    # What was kept outlives the steps that followed.
    assert sorted(kept) == [4, 8, 12, 16, 20]
    same(kept[20][0], final(straight)["params"])
    same(kept[20][1][1], final(straight)["ema"]["1"])
    assert not np.allclose(kept[4][0]["out"]["kernel"], kept[20][0]["out"]["kernel"])
    means = [line["loss"] for line in lines(straight) if "loss" in line]
    same(np.mean(np.reshape(seen, (4, 5)), axis=1), means, rtol=1e-12)
    measured = {line["step"]: line["held_out_loss"] for line in lines(straight) if "held_out_loss" in line}
    assert {step: loss for step, loss in held_out.items() if loss is not None} == measured


class Enough(Exception):
    """Of the loop's body."""


@pytest.mark.parametrize("way", ["break", "error"])
def test_a_loop_that_was_left_early_goes_on_to_the_bit(straight, tmp_path, way):
    def leave_at_7():
        for step in training(tiny_config(), tmp_path, data=tiny_data(), devices=ONE):
            if step.step == 7 and way == "error":
                raise Enough
            if step.step == 7:
                break

    with pytest.raises(Enough) if way == "error" else contextlib.nullcontext():
        leave_at_7()
    assert [checkpoint.step for checkpoint in find_checkpoints(tmp_path / "checkpoints")] == [7]
    verify(tmp_path / "checkpoints" / "00000007")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("prefetch", "checkpoint"))]
    with run_lock(tmp_path):  # the folder is free
        pass
    with training(tiny_config(), tmp_path, data=tiny_data(), devices=ONE) as steps:
        assert next(steps).step == 8
        first = steps.last
    assert first.is_checkpoint
    assert steps.result is None
    for step in training(tiny_config(), tmp_path, data=tiny_data(), devices=ONE):
        if step.step == 13:
            step.save()
            assert step.is_checkpoint
    same(final(tmp_path), final(straight))
    assert [checkpoint.step for checkpoint in find_checkpoints(tmp_path / "checkpoints")][-3:] == [10, 13, 20]


def test_a_step_waits_for_the_device_when_it_is_read_and_ends_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(Replicas, "on_cpu", False)  # the host runs ahead of the device
    config = tiny_config(training={"steps": 8, "steps_per_dispatch": 4, "validate_every": 0})
    steps = training(config, tmp_path, data=tiny_data(), devices=ONE)
    first = next(steps)
    assert repr(first) == "Step(4 of 8)"
    assert len(first.records) == 4
    assert (first.metrics, first.loss) == (first.records[-1], first.records[-1].loss)
    assert repr(first) == f"Step(4 of 8, loss {first.loss:.4g})"
    ema = first.ema
    second = next(steps)
    assert repr(second) == "Step(8 of 8, checkpoint)"
    assert first.ema is ema  # what was read is kept
    with pytest.raises(RuntimeError, match="step 4 is over; use its params in the loop's body, before the next step"):
        _ = first.params
    with pytest.raises(RuntimeError, match="step 4 is over; use its save"):
        first.save()
    assert list(steps) == []
    assert steps.result.step == 8


def test_a_loop_that_was_left_after_a_step_that_is_not_finite_saves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Replicas, "on_cpu", False)
    data = dataclasses.replace(tiny_data(), batches=Poisoned())
    with training(tiny_config(training={"steps": 40}), tmp_path, data=data, devices=ONE) as steps:
        for step in steps:
            if step.step == 14:  # the device has not told yet
                break
        with pytest.raises(DivergedError, match="step 14 is not finite"):
            steps.close()
    assert [checkpoint.step for checkpoint in find_checkpoints(tmp_path / "checkpoints")] == [10]


def test_a_save_that_finds_a_step_not_finite_leaves_nothing_to_go_on_from(tmp_path, monkeypatch):
    """The state after it remembers that it has diverged, and would never move again."""
    monkeypatch.setattr(Replicas, "on_cpu", False)
    data = dataclasses.replace(tiny_data(), batches=Poisoned())
    with training(tiny_config(training={"steps": 40}), tmp_path, data=data, devices=ONE) as steps:
        while next(steps).step < 14:
            pass
        for _ in range(2):
            with pytest.raises(DivergedError, match="step 14 is not finite"):
                steps.last.save()
        assert not steps.last.is_checkpoint
    assert [checkpoint.step for checkpoint in find_checkpoints(tmp_path / "checkpoints")] == [10]
