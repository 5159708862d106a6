"""The training loop: the only place that spreads the step over devices, by `jax.pmap`.

The same code runs on one CPU, several accelerators, or several hosts. The host stays ahead of the device: batches
are read and sent while earlier ones are used, and metrics are fetched a few dispatches late, so that the device
never waits for Python.
"""

from __future__ import annotations

import contextlib
import math
import signal
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.config.file import save_config
from experiments.config.tree import Config, Generator
from experiments.errors import DivergedError, UsageError
from experiments.training.checkpoint import CheckpointWriter, find_checkpoints
from experiments.training.data import RunData, open_data
from experiments.training.distributed import from_process_0
from experiments.training.generator import alternating
from experiments.training.interrupt import SIGNALS, Interruption, interruption
from experiments.training.lock import run_lock
from experiments.training.logging import Recorder, StepRecord
from experiments.training.objective import Objective, make_objective
from experiments.training.optimizer import make_optimizer
from experiments.training.prefetch import prefetch
from experiments.training.replicas import AXIS, Device, Replicas, make_replicas
from experiments.training.resume import check_config, starting_point
from experiments.training.state import PRNG, VALIDATION, Params, TrainState, seed_key, to_tree
from experiments.training.step import make_step, repeat

OnSample = Callable[[int, Params], None]


@dataclass(frozen=True)
class TrainResult:
    """How a run ended, all but by an error."""

    step: int
    """Updates done."""
    loss: float | None
    """The loss of the last line of metrics; None when there is none."""
    held_out_loss: float | None
    """The last held-out loss, if one was measured."""
    checkpoint: Path | None
    """The newest checkpoint."""
    signum: int | None
    """The signal that ended the run early."""

    @property
    def exit_status(self) -> int:
        """0, or 128 + the signal's number."""
        return 0 if self.signum is None else 128 + self.signum


def train(
    config: Config,
    outdir: Path,
    *,
    data: RunData | None = None,
    on_sample: OnSample | None = None,
    devices: tuple[Device, ...] | None = None,
    quiet: bool = False,
) -> TrainResult:
    """Train `config` in the folder `outdir`, or go on with the training that is there.

    Parameters, optimiser, averages, step, random numbers and the place in the data continue bit for bit. `data` are
    the batches, those of `config.data` unless given; `on_sample(step, params)` is called every `sample_every` steps
    on process 0 with the first average, which is gone after the call; `devices` are the local ones unless given.

    SIGTERM and SIGINT end the run after the step in progress, with a checkpoint; the result says so.

    Raises UsageError for a configuration that cannot be trained here or is not the run's own, BusyError when
    another process trains in `outdir`, CheckpointError when a checkpoint cannot be read or written, DataError for
    the data, and DivergedError when a loss or a gradient is not finite; the last good checkpoint is then untouched.
    """
    replicas = make_replicas(config, devices)
    outdir = _folder(outdir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_in_one_line(outdir))
        writes = jax.process_index() == 0
        if writes:
            stack.enter_context(run_lock(outdir))
        request = stack.enter_context(interruption())
        directory = outdir / "checkpoints"
        if writes:
            check_config(config, outdir, bool(find_checkpoints(directory)))
        data = data or open_data(config)
        generator = isinstance(config.objective, Generator)
        optimizer = alternating(config) if generator else make_optimizer(config.optimizer, config.training.steps)
        network, state = starting_point(config, optimizer, directory, data.facts)
        if writes:
            save_config(config, outdir / "config.json")
        objective = make_objective(config, network, data.facts.num_classes, config.network.dropout > 0)
        start, state = int(state.step), replicas.replicate(state)
        recorder = stack.enter_context(contextlib.closing(Recorder(config, outdir if writes else None, start, quiet)))
        writer = stack.enter_context(contextlib.closing(CheckpointWriter(directory, config, data.facts)))
        run = _Run(
            config=config,
            data=data,
            replicas=replicas,
            programs=_programs(config, objective, optimizer, replicas),
            held_out=_held_out(config, data, replicas),
            recorder=recorder,
            writer=writer,
            directory=directory,
            request=request,
            on_sample=on_sample if writes else None,
        )
        return _loop(run, state, start)


@dataclass(frozen=True)
class _Programs:
    """The two functions that run on the devices."""

    advance: Callable[[TrainState, Any, Any], tuple[TrainState, jax.Array]]
    """(state, batches, the signal that this process has, or 0) -> (state, a row of numbers for each step)."""
    held_out_loss: Callable[[Params, Any, Any], jax.Array]
    """(params, key data, batch) -> mean loss."""


def _programs(
    config: Config, objective: Objective, optimizer: optax.GradientTransformation, replicas: Replicas
) -> _Programs:
    mean = partial(jax.lax.pmean, axis_name=AXIS)
    step = make_step(objective, optimizer, config, reduce=mean, unroll=replicas.on_cpu)
    steps = repeat(step, unroll=replicas.on_cpu)

    def advance(state: TrainState, batches: Any, signum: jax.Array) -> tuple[TrainState, jax.Array]:
        state, metrics = steps(state, batches)
        # All processes learn of one process's signal with the same step, and so stop after the same one.
        signum = jnp.broadcast_to(jax.lax.pmax(signum, AXIS), metrics.loss.shape)
        return state, jnp.stack([*metrics, signum], axis=-1)

    def held_out_loss(params: Params, key_data: jax.Array, batch: Any) -> jax.Array:
        key = jax.random.wrap_key_data(key_data, impl=PRNG)
        batch = jax.tree.map(lambda leaf: leaf[0], batch)
        return mean(jnp.mean(objective(params, key, batch, jnp.ones(1), False)[0]))

    pmap = partial(
        jax.pmap, axis_name=AXIS, out_axes=None, devices=replicas.local if jax.process_count() == 1 else None
    )
    return _Programs(
        pmap(advance, in_axes=(None, 0, 0), donate_argnums=0), pmap(held_out_loss, in_axes=(None, None, 0))
    )


@dataclass(frozen=True)
class _Run:
    """What the loop works with."""

    config: Config
    data: RunData
    replicas: Replicas
    programs: _Programs
    held_out: tuple[tuple[Any, Any], ...]
    recorder: Recorder
    writer: CheckpointWriter
    directory: Path
    request: Interruption
    on_sample: OnSample | None


def _loop(run: _Run, state: TrainState, step: int) -> TrainResult:
    """Dispatch until the last step or a signal; then wait for what is under way."""
    share, local = run.replicas.share, len(run.replicas.local)
    requests = {signum: share(np.full(local, signum, np.float32)) for signum in (0, *SIGNALS)}
    # Queued collectives of several virtual CPU devices deadlock, so there the host waits for each dispatch.
    ahead = 0 if run.replicas.on_cpu else 2
    pending: deque[tuple[int, jax.Array]] = deque()
    held_out_loss, stopped = None, 0
    reading = prefetch(partial(_read, run), dispatches(run.config, step))
    with contextlib.closing(reading) as feed:
        for (first, length), batches in zip(dispatches(run.config, step), feed, strict=True):
            state, report = run.programs.advance(state, batches, requests[run.request.signum or 0])
            pending.append((first, report))
            step = first + length
            stopped = _collect(run, pending, ahead)
            due = _due(run, step)
            if not (stopped or due.anything):
                continue
            rest = _collect(run, pending, 0)
            stopped = (stopped or rest) if step < run.config.training.steps else 0
            loss = _validate(run, state, step) if due.validate and not stopped else None
            held_out_loss = held_out_loss if loss is None else loss
            if due.save or stopped:
                run.writer.save(step, to_tree(state), loss)
            if due.sample and not stopped and run.on_sample is not None:
                run.on_sample(step, jax.tree.map(lambda leaf: leaf.addressable_data(0), state.ema[0]))
            run.recorder.restart_clock()
            if stopped:
                break
    run.writer.wait()
    from_process_0(np.zeros(()))  # No process is done before the last checkpoint is.
    return _result(run, step, held_out_loss, stopped or None)


def dispatches(config: Config, start: int) -> Iterator[tuple[int, int]]:
    """(first step, number of steps) of every call to the device from step `start` on.

    A call makes `steps_per_dispatch` steps, or a single one where more would run past something that is due.
    """
    training, step = config.training, start
    periods = [n for n in (training.checkpoint_every, training.validate_every, training.sample_every) if n > 0]
    while step < training.steps:
        room = min(training.steps - step, *(period - step % period for period in periods))
        length = training.steps_per_dispatch if training.steps_per_dispatch <= room else 1
        yield step, length
        step += length


class _Due(NamedTuple):
    save: bool
    validate: bool
    sample: bool

    @property
    def anything(self) -> bool:
        return any(self)


def _due(run: _Run, step: int) -> _Due:
    training = run.config.training

    def every(period: int) -> bool:
        return period > 0 and step % period == 0

    save = step == training.steps or every(training.checkpoint_every)
    # Every checkpoint of a validated run has its loss, or the best of them could not be told.
    validate = bool(run.held_out) and (every(training.validate_every) or (save and training.validate_every > 0))
    return _Due(save, validate, every(training.sample_every))


def _collect(run: _Run, pending: deque[tuple[int, jax.Array]], leave: int) -> int:
    """Fetch and record the reports of all dispatches but the last `leave`; the signal that one of them tells of, or 0.

    Raises DivergedError for the first step that was not finite.
    """
    signum = 0
    while len(pending) > leave:
        first, report = pending.popleft()
        for step, row in enumerate(np.asarray(report).tolist(), first + 1):
            record, signum = StepRecord(*row[:-1]), signum or int(row[-1])
            if not record.finite:
                raise _diverged(run, step, record)
            run.recorder.record(step, record)
    return signum


def _diverged(run: _Run, step: int, record: StepRecord) -> DivergedError:
    run.writer.wait()
    saved = find_checkpoints(run.directory)
    last = f"the last good checkpoint is {saved[-1].path}" if saved else "there is no checkpoint yet"
    clip = "a lower --optimizer.clip-norm" if run.config.optimizer.clip_norm > 0 else "--optimizer.clip-norm 1"
    return DivergedError(
        f"step {step} is not finite (loss {record.loss:g}, gradient norm {record.grad_norm:g}, learning rate "
        f"{record.learning_rate:g}) and was not made; {last}; train in another --outdir with a lower "
        f"--optimizer.learning-rate, {clip}, or a longer --optimizer.warmup-steps."
    )


def _read(run: _Run, dispatch: tuple[int, int]) -> Any:
    first, length = dispatch
    return run.replicas.split([run.data.batches[step] for step in range(first, first + length)])


def _held_out(config: Config, data: RunData, replicas: Replicas) -> tuple[tuple[Any, Any], ...]:
    """(key data, batch) of each held-out batch, on the devices: the same times and noise at every validation."""
    if config.training.validate_every == 0:
        return ()
    root = seed_key(config.training.seed, VALIDATION)
    return tuple(
        (np.asarray(jax.random.key_data(jax.random.fold_in(root, i))), replicas.split([batch]))
        for i, batch in enumerate(data.held_out)
    )


def _validate(run: _Run, state: TrainState, step: int) -> float:
    losses = [float(run.programs.held_out_loss(state.ema[0], key, batch)) for key, batch in run.held_out]
    loss = sum(losses) / len(losses)
    if math.isfinite(loss):
        run.recorder.write(step, held_out_loss=loss)
    run.recorder.say(f"step {step}: held-out loss {loss:.4g}")
    return loss


@contextlib.contextmanager
def _in_one_line(outdir: Path) -> Iterator[None]:
    """Say of a full or vanished disk what a person can do about it."""
    try:
        yield
    except OSError as error:
        what, why = error.filename or outdir, error.strerror or error
        raise UsageError(
            f"{what} cannot be read or written ({why}); mend it and give the same command again."
        ) from error


def _folder(outdir: Path) -> Path:
    try:
        outdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--outdir {outdir} cannot be made ({error.strerror}); give a folder to write in.") from None
    return outdir.resolve()


def _result(run: _Run, step: int, held_out_loss: float | None, signum: int | None) -> TrainResult:
    saved = find_checkpoints(run.directory)
    latest = saved[-1].path if saved else None
    if signum is not None:
        run.recorder.say(f"stopped by {signal.Signals(signum).name} after step {step}; the same command resumes.")
    return TrainResult(step, run.recorder.loss, held_out_loss, latest, signum)
