"""The course of a training: dispatch, collect, do what is due, hand over the step.

The host stays ahead of the device: batches are read and sent while earlier ones are used, and metrics are fetched a
few dispatches late, so that the device never waits for Python.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.errors import CheckpointError, DataError, DivergedError, warn
from experiments.memory import forget_programs, give_back, shown
from experiments.progress import duration
from experiments.training.budget import Budget, require_compiled
from experiments.training.checkpoint import CheckpointWriter, find_checkpoints
from experiments.training.data import RunData
from experiments.training.distributed import from_process_0
from experiments.training.interrupt import SIGNALS, Interruption
from experiments.training.logging import Recorder, StepRecord
from experiments.training.measures import Measure
from experiments.training.parting import Parting, Patience, Validation
from experiments.training.plan import dispatches, due
from experiments.training.prefetch import prefetch
from experiments.training.programs import Programs
from experiments.training.progress import Setting, Step
from experiments.training.replicas import Replicas
from experiments.training.snapshots import SnapshotWriter
from experiments.training.state import TrainState

_LONG = 5.0
"""Seconds from which on a compilation is spoken of."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended, all but by an error."""

    step: int
    """Updates done."""
    loss: float | None
    """The loss of the last line of metrics, by whichever command; None when there is none."""
    held_out_loss: float | None
    """The last held-out loss, by whichever command, if one was measured."""
    checkpoint: Path | None
    """The newest checkpoint."""
    signum: int | None
    """The signal that ended the run early."""

    @property
    def exit_status(self) -> int:
        """0, or 128 + the signal's number."""
        return 0 if self.signum is None else 128 + self.signum


@dataclass(frozen=True)
class Equipment:
    """What a training works with."""

    setting: Setting
    data: RunData
    replicas: Replicas
    programs: Programs
    budget: Budget | None
    """What a step takes by its shapes, if that was asked for."""
    held_out: tuple[tuple[Any, Any], ...]
    recorder: Recorder
    writer: CheckpointWriter
    snapshots: SnapshotWriter
    directory: Path
    """Folder of the checkpoints."""
    request: Interruption
    step_type: type[Step]
    measures: Sequence[Measure] = ()
    """What is measured along the training, on process 0."""


class Course:
    """A training under way: its state on the devices, and the reports that are not fetched yet."""

    def __init__(self, equipment: Equipment, state: TrainState, step: int) -> None:
        """`state`, after `step` updates, is on the devices; every update takes its arrays."""
        self._with, self._config = equipment, equipment.setting.config
        self._state, self._step = state, step
        self._pending: deque[tuple[int, jax.Array]] = deque()
        self._signum, self._held_out_loss = 0, equipment.recorder.held_out_loss
        self._divergence: DivergedError | None = None
        self._parting, patience = Parting(), Patience().after_all(equipment.recorder.held_out_losses)
        known = from_process_0(tuple(map(np.asarray, astuple(patience))))  # which alone has read the file
        self._patience = Patience(*(number.item() for number in known))
        self._trained: list[float] = []
        """The losses of the steps since the last validation."""

    def steps(self) -> Generator[Step, None, TrainResult]:
        """Advance until the last step, an early stop or a signal; gives every step, and returns how the run ended.

        Closed early, in a run of one process, it saves the step that it gave last.
        """
        if self._is_over:
            return self._finish()
        share, local = self._with.replicas.share, len(self._with.replicas.local)
        requests = {signum: share(np.full(local, signum, np.float32)) for signum in (0, *SIGNALS)}
        with self._feed() as feed:
            for (first, length), batches in zip(dispatches(self._config, self._step), feed, strict=True):
                signum = requests[self._with.request.signum or 0]
                if not self._with.request.begun:
                    self._compile(batches, signum)
                self._state, report = self._with.programs.advance(self._state, batches, signum)
                self._with.request.begin()
                self._pending.append((first, report))
                self._step = first + length
                # Queued collectives of several virtual CPU devices deadlock: there the host waits for each dispatch.
                self._collect(0 if self._with.replicas.on_cpu else 2)
                if self._with.writer.failed:
                    self._save_instead()
                yield from self._give(report)
                if self._stopped or self._is_over:
                    break
        return self._finish()

    def _compile(self, batches: Any, signum: jax.Array) -> None:
        """Compile the step, which the first call to it would do in silence, and see whether it fits into memory.

        Raises ExhaustedError where it does not, before it runs.
        """
        forget_programs()
        start = time.perf_counter()
        with self._with.recorder.compiling():
            program = self._with.programs.advance.lower(self._state, batches, signum).compile()
        give_back()
        seconds, told = time.perf_counter() - start, program.memory_analysis()
        if told is None:
            return
        needed = told.temp_size_in_bytes + told.output_size_in_bytes - told.alias_size_in_bytes
        require_compiled(needed, self._with.budget, self._config, self._with.replicas)
        if seconds > _LONG:
            size = shown(needed + told.argument_size_in_bytes)
            self._with.recorder.say(f"compiled in {duration(seconds)}; as compiled a step takes {size} of memory")

    @property
    def _stopped(self) -> int:
        """The signal that stops the run at this step, or 0; after the last step there is nothing to stop."""
        return self._signum if self._step < self._config.training.steps else 0

    @property
    def _is_over(self) -> bool:
        """Whether the held-out loss has not fallen for so long that the run ends before its last step."""
        rule = self._config.training
        return self._step < rule.steps and bool(self._with.held_out) and self._patience.is_over(rule.stop_after)

    def _give(self, report: jax.Array) -> Generator[Step]:
        """Do what is due, and give the step to the loop's body."""
        now = due(self._config, self._step, has_held_out=bool(self._with.held_out))
        measures = [measure for measure in self._with.measures if self._step % measure.every == 0]
        attended = bool(self._stopped) or now.anything or bool(measures)
        if attended:
            self._collect(0)
        if now.snapshot:  # before the checkpoint of this step, or a kill between the two would lose it
            self._with.snapshots.save(self._step, self._with.replicas.whole(self._state.ema))
        loss = self._validate() if now.validate and not self._stopped else None
        if loss is not None and self._config.training.stop_after:
            now = now._replace(save=now.save or self._is_over or self._patience.step == self._step)
        step = self._with.step_type(
            self._step,
            self._with.setting,
            self._state,
            report,
            whole=self._with.replicas.whole,
            held_out_loss=loss,
            is_checkpoint_due=now.save or bool(self._stopped),
            is_sample_due=now.sample,
            save=self._save,
            recorder=self._with.recorder,
        )
        for measure in () if self._stopped else measures:
            self._measure(measure, step)
        # A picture that is due comes before the checkpoint, after which nothing would draw it any more; but whoever
        # stops a training may not wait for it.
        if self._stopped or (now.save and not now.sample):
            step.save()
        try:
            yield step
            if now.save or self._stopped:  # which a save in the body may have found out
                step.save()
        except GeneratorExit:
            # Several processes would wait for one another.
            if jax.process_count() == 1 and self._divergence is None:
                step.save()
            raise
        finally:
            step.end()
        if attended:  # what was due, and what the body made of it, is no part of the training's speed
            self._with.recorder.restart_clock()

    def _save_instead(self) -> None:
        """Save the newest state after a save that has failed, and wait: a cause that has passed costs nothing.

        Raises CheckpointError when that fails too, and at once in a run of several processes, which save together.
        """
        try:
            self._with.writer.wait()
        except CheckpointError as error:
            if jax.process_count() > 1:
                raise
            warn(f"{error} Step {self._step} is tried instead.")
        self._save(None)
        self._with.writer.wait()
        warn(f"step {self._step} was saved instead, and the training goes on.")

    def _save(self, held_out_loss: float | None) -> None:
        self._collect(0)  # no state is saved before it is known to be finite
        if self._with.writer.failed and jax.process_count() == 1:
            try:
                self._with.writer.wait()
            except CheckpointError as error:  # this save is the next attempt
                warn(str(error))
        self._with.writer.save(self._step, self._with.replicas.to_save(self._state), held_out_loss)

    def _collect(self, leave: int) -> None:
        """Fetch and record the reports of all dispatches but the last `leave`, and the signal that they tell of.

        Raises DivergedError for the first step that was not finite, again and again: no state after it may be saved.
        """
        if self._divergence is not None:
            raise self._divergence
        while len(self._pending) > leave:
            first, report = self._pending.popleft()
            for step, row in enumerate(np.asarray(report).tolist(), first + 1):
                record = StepRecord(*row[:-1])
                self._signum = self._signum or int(row[-1])
                if not record.finite:
                    self._divergence = self._diverged(step, record)
                    raise self._divergence
                self._with.recorder.record(step, record)
                self._trained.append(record.loss)

    def _diverged(self, step: int, record: StepRecord) -> DivergedError:
        self._with.writer.wait()
        saved = find_checkpoints(self._with.directory)
        last = f"the last good checkpoint is {saved[-1].path.name}" if saved else "there is no checkpoint yet"
        clip = "a lower --optimizer.clip-norm" if self._config.optimizer.clip_norm > 0 else "--optimizer.clip-norm 1"
        return DivergedError(
            f"step {step} is not finite (loss {record.loss:g}, gradient norm {record.grad_norm:g}, learning rate "
            f"{record.learning_rate:g}) and was not made; {last}; train in another --outdir with a lower "
            f"--optimizer.learning-rate, {clip}, or a longer --optimizer.warmup-steps."
        )

    @contextlib.contextmanager
    def _feed(self) -> Generator[Iterator[Any]]:
        """The batches of each dispatch on the devices, ahead of their use.

        Where one cannot be read any more, the step that was made last is saved before DataError ends the training, in a
        run of one process.
        """
        with self._with.data.from_step(self._step) as batches:

            def read(dispatch: tuple[int, int]) -> Any:
                return self._with.replicas.split([next(batches) for _ in range(dispatch[1])])

            with contextlib.closing(prefetch(read, dispatches(self._config, self._step))) as feed:
                yield self._saved_where_data_end(feed)

    def _saved_where_data_end(self, feed: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from feed
        except DataError:
            if jax.process_count() == 1 and self._with.request.begun:
                self._with.writer.wait()
                saved = find_checkpoints(self._with.directory)
                if not saved or saved[-1].step != self._step:
                    self._save(None)
                    self._with.writer.wait()
            raise

    def _validate(self) -> float:
        """The mean loss of the first average on the held-out batches."""
        average, held_out = self._state.ema[0], self._with.held_out
        found = [self._with.programs.held_out_loss(average, key, batch) for key, batch in held_out]
        loss = sum(float(mean) for mean, _ in found) / len(found)
        if math.isfinite(loss):
            self._with.recorder.write(self._step, held_out_loss=loss)
        self._with.recorder.say(f"step {self._step}: held-out loss {loss:.4g}")
        self._held_out_loss, self._patience = loss, self._patience.after(self._step, loss)
        if self._trained:
            each = np.concatenate([np.asarray(losses) for _, losses in found]).tolist()
            self._compare(Validation(self._step, sum(self._trained) / len(self._trained), each))
        self._trained = []
        return loss

    def _compare(self, now: Validation) -> None:
        """Warn, once, when held-out and training loss part."""
        lowest = self._parting(now)
        if lowest is not None and jax.process_index() == 0:
            warn(
                f"since step {lowest.step} the held-out loss has risen from {np.mean(lowest.held_out):.4g} to "
                f"{np.mean(now.held_out):.4g} at step {now.step} while the training loss falls: there are too few "
                "images for this network and so many steps. Stop and take --best, or begin again with more images, "
                "--augment.probability 0.15, --network.dropout or a smaller network."
            )

    def _measure(self, measure: Measure, step: Step) -> None:
        """Measure and tell; before the checkpoint, after which nothing would be measured any more."""
        values = measure.of(step)
        step.log(values)
        if values:
            told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            self._with.recorder.say(f"step {self._step}: {told}")

    def _finish(self) -> TrainResult:
        """Wait for what is under way, and say how the run ended."""
        self._with.writer.settle()
        if self._with.writer.failed:
            self._save_instead()
        self._with.writer.wait()
        from_process_0(np.zeros(()))  # No process is done before the last checkpoint is.
        saved = find_checkpoints(self._with.directory)
        latest = saved[-1].path if saved else None
        signum = self._stopped or None
        if signum is not None:
            name = signal.Signals(signum).name
            self._with.recorder.say(f"stopped by {name} after step {self._step}; the same command resumes.")
        elif self._is_over:
            self._with.recorder.say(
                f"ended at step {self._step} of {self._config.training.steps}: the held-out loss was lowest at step "
                f"{self._patience.step}, {self._patience.lowest:.4g}, which --best takes; a larger "
                "--training.stop-after goes on."
            )
        return TrainResult(self._step, self._with.recorder.loss, self._held_out_loss, latest, signum)
