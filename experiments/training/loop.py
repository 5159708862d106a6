"""Training as a loop whose body belongs to the caller, and as one call, which is a thin user of it.

    for step in training(config, "runs/mine"):
        if step.step % 100 == 0:
            print(step.step, step.loss)

The same code runs on one CPU, several accelerators, or several hosts.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 (its exit function is registered first, and so called last)
import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import jax

from experiments.config.checks import check
from experiments.config.file import check_kinds, document, save_config
from experiments.config.tree import Config
from experiments.errors import UsageError, reason, warn
from experiments.memory import remedied, shown
from experiments.progress import reporting
from experiments.tracking.tracker import Picture, Tracker, named
from experiments.training import budget as budgets
from experiments.training import distributed, peers
from experiments.training.checkpoint import CheckpointWriter, find_checkpoints
from experiments.training.course import Course, Equipment, TrainResult
from experiments.training.data import RunData, open_data, tell
from experiments.training.generator import optimizer_of
from experiments.training.interrupt import Interruption, interruption
from experiments.training.lock import run_lock
from experiments.training.logging import Recorder
from experiments.training.measures import Measuring
from experiments.training.model import network_of
from experiments.training.objective import make_objective
from experiments.training.placement import make_programs, make_replicas
from experiments.training.plan import count_saves
from experiments.training.programs import place_held_out
from experiments.training.progress import Setting, Step
from experiments.training.replicas import Device
from experiments.training.resume import check_config, command_of, starting_point, with_form, with_own_rules
from experiments.training.room import size_of
from experiments.training.settle import settled
from experiments.training.snapshots import SnapshotWriter, bytes_to_come, snapshots_of
from experiments.training.state import Params, TrainState, to_tree
from experiments.training.warm_start import KEY, InitFrom, Origin, begun_by, require_same_source

OnSample = Callable[[int, Params], Picture | None]
S = TypeVar("S", bound=Step)

_begun: weakref.WeakSet[Training[Any]] = weakref.WeakSet()
"""The trainings that have been iterated over and are still referred to."""


def _close_all() -> None:
    """Close what a script that ends has left open: once Python has shut threads down, saving would wait for ever."""
    for training in list(_begun):
        try:
            training.close()
        except Exception as error:
            warn(f"the training in {training.outdir} could not be saved at exit ({reason(error)}).")


# `atexit` would be too late: its functions are called when the threads that save have been shut down.
threading._register_atexit(_close_all)  # pyright: ignore


class Training(Iterator[S]):
    """A training that advances as it is iterated over. Nothing is touched before the first step is asked for.

    Leaving the loop early, by `break`, `return` or an error in its body, ends the training: the step that the body
    saw last is saved as a checkpoint, and the folder is free for another training. The same call goes on from there,
    bit for bit. (In a run of several processes leaving saves nothing: they would wait for one another. Call
    `step.save()` in all of them before.) A training that is kept in a variable ends with the script instead, where
    Python 3.12 can start no thread and so saves nothing, which a line on standard error says: there, or where a save
    that fails must not pass unnoticed, write `with training(...) as steps:`, or call `close`.
    """

    def __init__(self, config: Config, outdir: Path, steps: Generator[S, None, TrainResult]) -> None:
        """`steps` is the training itself."""
        self.config, self.outdir = config, outdir
        self.last: S | None = None
        """The step that was given last."""
        self.result: TrainResult | None = None
        """How the run ended; None while it has not come to its end, and when the loop was left early."""
        self._steps = steps

    def __next__(self) -> S:
        _begun.add(self)
        try:
            self.last = next(self._steps)
        except StopIteration as end:
            self.result = end.value or self.result
            raise StopIteration from None
        return self.last

    def close(self) -> None:
        """End the training as leaving the loop does. Raises CheckpointError when the checkpoint cannot be saved."""
        self._steps.close()

    def __enter__(self) -> Training[S]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = f"step {self.last.step} of {self.config.training.steps}" if self.last else "not begun"
        return f"Training({self.outdir}, {where})"


def training(
    config: Config,
    outdir: Path | str,
    *,
    data: RunData | None = None,
    devices: tuple[Device, ...] | None = None,
    quiet: bool = True,
    signals: bool = False,
    restart: bool = False,
    init_from: InitFrom | None = None,
    trackers: Iterable[Tracker] = (),
    measuring: Measuring | None = None,
) -> Training[Step]:
    """Train `config` in the folder `outdir`, or go on with the training that is there, as an iterator over its steps.

    Parameters, optimiser, averages, step, random numbers and the place in the data continue bit for bit; what the
    loop's body does has no part in them. Checkpoints, config.json and metrics.jsonl are written as by `train`.

    `data` are the batches, those of `config.data` unless given; `devices` are the local ones unless given; `quiet`
    shows no progress. With `signals` SIGTERM, SIGINT and SIGHUP end the run after the step in progress, with a
    checkpoint; without, they are the caller's. With `restart` a run none of whose checkpoints can be trusted is trained
    anew; without, it is refused. With `init_from` a new run begins from the parameters of another, of which its
    averages begin as well; optimiser, schedule and steps begin anew, and a run that is there goes on by itself.
    The `trackers` are told of what is measured, besides those of the configuration; `measuring` says what, besides the
    losses.

    Raises, at the first step that is asked for, UsageError for a configuration that cannot be trained here or is not
    the run's own, BusyError when another process trains in `outdir`, DataError for the data; and at any step
    CheckpointError when a checkpoint cannot be read or written, and DivergedError when a loss or a gradient is not
    finite; the last good checkpoint is then untouched.
    """
    given = Options(data, devices, quiet, signals, restart, init_from, tuple(trackers), measuring)
    return training_with(Step, config, outdir, given)


@dataclass(frozen=True)
class Options:
    """What a training is given besides its configuration and its folder; as in `training`."""

    data: RunData | None = None
    devices: tuple[Device, ...] | None = None
    quiet: bool = True
    signals: bool = False
    restart: bool = False
    init_from: InitFrom | None = None
    trackers: tuple[Tracker, ...] = ()
    measuring: Measuring | None = None


def training_with(step_type: type[S], config: Config, outdir: Path | str, given: Options) -> Training[S]:
    """`training` whose steps are of a subclass of `Step`. Raises UsageError for what is not a configuration."""
    if not isinstance(config, Config):
        raise UsageError(f"config is {config!r}; give a Config, such as scorefield.preset('digits-ddpm').")
    check_kinds(config)
    if not isinstance(outdir, str | os.PathLike) or not os.fspath(outdir):
        raise UsageError(f"outdir is {outdir!r}; give a folder to write in.")
    folder = Path(outdir)
    named(given.trackers)  # which refuses what is none
    steps = _steps(step_type, config, folder, given)
    return Training(config, folder, cast(Generator[S, None, TrainResult], steps))


def train(
    config: Config,
    outdir: Path,
    *,
    data: RunData | None = None,
    on_sample: OnSample | None = None,
    devices: tuple[Device, ...] | None = None,
    quiet: bool = False,
    restart: bool = False,
    init_from: InitFrom | None = None,
    measuring: Measuring | None = None,
) -> TrainResult:
    """Train as `training` does, to the end or to one of these signals, which the result tells of. Raises as it does.

    `on_sample(step, params)` is called every `sample_every` steps on process 0 with the first average; the picture
    that it returns, if any, is for the trackers.
    """
    given = Options(data, devices, quiet, True, restart, init_from, measuring=measuring)
    with training_with(Step, config, outdir, given) as steps:
        for step in steps:
            if step.is_sample_due and on_sample is not None:
                average = step.ema[0]  # in every process, each of which may hold a part of it
                picture = on_sample(step.step, average) if jax.process_index() == 0 else None
                if picture is not None:
                    step.log_images({"samples": picture})
    assert steps.result is not None  # the loop has come to its end
    return steps.result


def _steps(step_type: type[Step], config: Config, outdir: Path, given: Options) -> Generator[Step, None, TrainResult]:
    data, quiet = given.data, given.quiet
    check(config)
    replicas = make_replicas(config, given.devices)
    outdir = _folder(outdir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_as_one(config, outdir))
        writes, directory = jax.process_index() == 0, outdir / "checkpoints"

        def claim() -> None:
            stack.enter_context(run_lock(outdir))
            check_config(config, outdir, bool(find_checkpoints(directory)), given.restart)
            require_same_source(given.init_from, outdir)

        config = with_own_rules(config, outdir)
        distributed.on_process_0(claim)
        request = stack.enter_context(interruption()) if given.signals else Interruption()
        config, data = _opened(config, data, quiet, writes)
        distributed.require_alike({**command_of(config, data.facts), **begun_by(given.init_from)})
        optimizer = optimizer_of(config)
        network = network_of(config, data.facts)
        objective = make_objective(config, network, data.facts.num_classes, config.network.dropout > 0)
        budget = budgets.checked(config, data.facts, network, objective, optimizer, replicas, quiet)
        _, state, origin, begins = starting_point(
            config, optimizer, directory, data.facts, given.restart, given.init_from
        )
        measures = given.measuring(config, data) if given.measuring and writes else ()
        notes = None if origin is None else {KEY: origin.to_json()}
        if origin is not None and begins:
            _begin_from(origin, CheckpointWriter(directory, config, data.facts, notes), state, quiet or not writes)
        if writes:
            save_config(config, outdir / "config.json")
        start, size = int(state.step), size_of(state)
        besides = bytes_to_come(config, sum(leaf.size for leaf in jax.tree.leaves(state.params)), start)
        state = replicas.place(state)
        told = {"config": document(config), "data": data.facts.to_json(), "outdir": str(outdir), **(notes or {})}
        recorder = Recorder(config, outdir if writes else None, start, quiet, given.trackers, told)
        stack.enter_context(contextlib.closing(recorder))
        writer = stack.enter_context(contextlib.closing(CheckpointWriter(directory, config, data.facts, notes)))
        if config.parallel == "fsdp":
            recorder.say(_cut(replicas.bytes_on_each(state), size, replicas.count))
        peers.tell_saved(lambda: _newest(directory))
        stack.enter_context(_as_one(config, outdir))  # before the saves that wait for the others
        writer.require_room(size, count_saves(config, start), besides)
        equipment = Equipment(
            setting=Setting(config, data.facts, network, outdir),
            data=data,
            replicas=replicas,
            programs=make_programs(config, objective, optimizer, replicas),
            budget=budget,
            held_out=place_held_out(config, data, replicas),
            recorder=recorder,
            writer=writer,
            snapshots=SnapshotWriter(snapshots_of(outdir), config, start),
            directory=directory,
            request=request,
            step_type=step_type,
            measures=measures,
        )
        return (yield from Course(equipment, state, start).steps())


def _opened(config: Config, data: RunData | None, quiet: bool, writes: bool) -> tuple[Config, RunData]:
    """The data, those of `config` unless they are given, and `config` with what it leaves to them."""
    if data is None:
        with reporting(quiet or not writes):
            data = open_data(config)
        tell(data, quiet)
    return settled(with_form(config, data), data), data


def _cut(each: int, size: int, count: int) -> str:
    return f"the state, {shown(size)}, is cut among {count} devices: {shown(each)} on each"


def _begin_from(origin: Origin, writer: CheckpointWriter, state: TrainState, quiet: bool) -> None:
    """Save the state of step 0, from which the run goes on whatever becomes of its source, and tell of it."""
    if not quiet:
        print(*origin.told(), sep="\n", file=sys.stderr, flush=True)
    with contextlib.closing(writer):
        writer.require_room(size_of(state), 1)
        writer.save(0, to_tree(state))


@contextlib.contextmanager
def _as_one(config: Config, outdir: Path) -> Iterator[None]:
    """End all processes by an error of this one, and let it be a sentence where the disk or memory refuses."""
    with peers.as_one(), _in_one_line(outdir), remedied(budgets.remedy(config)):
        yield


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


def _newest(directory: Path) -> str:
    saved = find_checkpoints(directory)
    return f"the newest checkpoint is {saved[-1].path.name}; " if saved else "nothing is saved yet; "


def _folder(outdir: Path) -> Path:
    try:
        outdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--outdir {outdir} cannot be made ({error.strerror}); give a folder to write in.") from None
    return outdir.resolve()
