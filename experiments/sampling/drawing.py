"""From a trained model and a solver to images or points: the loop over seeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.ddpm.reverse_steps import Learned
from diffusion.pytree import short_repr
from experiments import memory, streams
from experiments.data.scaling import to_pixels
from experiments.data.source import Events
from experiments.errors import DivergedError
from experiments.runs.classes import require_known
from experiments.runs.model import Model
from experiments.sampling.guidance import UNGUIDED, Guidance
from experiments.sampling.labels import Classes
from experiments.sampling.seeds import Seeds
from experiments.sampling.throughput import Throughput
from samplers.ancestral import Ancestral
from samplers.grids import Grid
from samplers.sample import Sampler, sample

_COPIES, _SEED = 4, 64
"""What a sample in a batch takes at least: arrays of its size, and bytes besides."""


@dataclass(frozen=True)
class Drawn:
    """A batch of samples."""

    seeds: list[int]
    images: Events
    """Images uint8, or uint16 of 16 bits, (b, height, width, channels), or the points float32 (b, d) of a model of
    points."""
    nfe: int
    """Network calls for each sample; under guidance two for each call of the denoiser."""

    __repr__ = short_repr


class Sampling(Protocol):
    """A sampler on a grid, such as a `Solver`; one that asks a chain between its times has `between`."""

    @property
    def sampler(self) -> Sampler:
        """The sampler."""
        ...

    @property
    def grid(self) -> Grid:
        """Its grid."""
        ...


def asked_by(model: Model, solver: Sampling) -> Model:
    """The model as this solver asks it: a chain between its times too, where the solver does."""
    return model.flow if getattr(solver, "between", False) else model


def draw(
    model: Model,
    solver: Sampling,
    seeds: Sequence[int],
    *,
    batch: int = 64,
    label: int | Sequence[int] | np.ndarray | Classes | None = None,
    guidance: Guidance = UNGUIDED,
    brownian_tree: bool = False,
    there: Collection[int] = (),
    filled: bool = False,
) -> Iterator[Drawn]:
    """Images or points of the seeds, batch by batch; what a seed gives does not depend on the others.

    `label` is one class for all, one for each seed, or `Classes`; `guidance` changes the model's answers;
    `brownian_tree` is as in `samplers.sample`; batches all of whose seeds are `there` already are left out. Every batch
    has the same shape, so there is one compilation. Fewer seeds than `batch` are a smaller one, unless it is `filled`.
    Raises UsageError for a label that the model does not know or has seen no image of, and for guidance that does not
    go with it, DivergedError for a sample that is not finite.
    """
    guidance.check(model, paired=solver.sampler.takes_pair, given_class=label is not None)
    labels = labels_of(label, seeds)
    if label is not None:
        require_known(model, np.asarray(label.numbers if isinstance(label, Classes) else label))
    batch = batch if filled else min(batch, len(seeds))
    size = batch * (_SEED + _COPIES * 4 * math.prod(model.event_shape))
    memory.require(size, f"a batch of {batch:,} samples", "give a smaller batch")
    model = asked_by(model, solver)
    process, sampler, paired = model.process, solver.sampler, solver.sampler.takes_pair

    def ask(ids: np.ndarray, classes: Any) -> tuple[Any, int]:
        result = sample(
            jax.random.key(streams.SAMPLES),
            process,
            guidance.denoiser(model, classes, paired=paired, with_variance=with_variance(sampler)),
            sampler,
            solver.grid,
            (batch, *model.event_shape),
            ids=ids,
            brownian_tree=brownian_tree,
        )
        return result.x, guidance.calls(result.nfe, paired=paired)

    return in_batches(ask, model, seeds, batch, starts(seeds, batch, there), labels)


def with_variance(sampler: Sampler) -> bool:
    """Whether the sampler needs the variance that a network has learned."""
    return isinstance(sampler, Ancestral) and isinstance(sampler.variance, Learned)


def starts(seeds: Sequence[int], batch: int, there: Collection[int] = ()) -> Sequence[int]:
    """Where the batches of `batch` seeds begin, but for those all of whose seeds are `there`.

    So a seed that is drawn later than its neighbours is drawn in the same place of the same batch.
    """
    every = range(0, len(seeds), batch)
    if not there:
        return every
    known = seeds if isinstance(seeds, Seeds) else Seeds(range(seed, seed + 1) for seed in seeds)
    counts = Counter(place // batch for place in known.places(there))
    done = sorted(number for number, count in counts.items() if count == len(seeds[every[number] :][:batch]))
    ends = zip([-1, *done], [*done, len(every)], strict=True)
    return Seeds(every[before + 1 : after] for before, after in ends)


def labels_of(
    label: int | Sequence[int] | np.ndarray | Classes | None, seeds: Sequence[int]
) -> Callable[[int, int], np.ndarray] | None:
    """A function: the classes of the seeds from one place to before another; None for no class."""
    if label is None:
        return None
    if isinstance(label, Classes):
        return lambda low, high: label.of(seeds[low:high])
    known = np.broadcast_to(np.asarray(label), (len(seeds),))
    return lambda low, high: known[low:high]


def in_batches(
    ask: Callable[[np.ndarray, Any], tuple[Any, int]],
    model: Model,
    seeds: Sequence[int],
    batch: int,
    places: Sequence[int],
    labels: Callable[[int, int], np.ndarray] | None,
) -> Iterator[Drawn]:
    """The batches that begin at `places`, each of what `ask(ids (b,), classes (b,))` answers: (x, network calls).

    The last is filled up, so that all have one shape. Raises DivergedError for a sample that is not finite.
    """
    for start in places:
        part = list(seeds[start : start + batch])
        padded = np.asarray(part + [part[-1]] * (batch - len(part)))
        now = None if labels is None else jnp.asarray(np.resize(labels(start, start + batch), batch), jnp.int32)
        answer, nfe = ask(padded, now)
        x = np.asarray(answer)
        finite = np.isfinite(x).reshape(batch, -1).all(axis=1)
        if not np.all(finite):
            wrong = padded[int(np.argmin(finite))]
            raise DivergedError(f"the sample of seed {wrong} is not finite; use more steps, or less guidance.")
        made = x.astype(np.float32) if model.of_points else to_pixels(x, model.bits)
        yield Drawn(part, made[: len(part)], nfe)


def timed(batches: Iterable[Drawn], throughput: Throughput) -> Iterator[Drawn]:
    """The batches, each told to `throughput`, which leaves out what is done with them."""
    for drawn in batches:
        throughput.add(len(drawn.seeds))
        yield drawn
        throughput.resume()


class Samples(NamedTuple):
    """All samples of a list of seeds."""

    images: Events
    """Images uint8 or uint16 (n, height, width, channels), or points float32 (n, d), in the order of the seeds."""
    nfe: int
    """Network calls for each."""
    throughput: Throughput
    """How fast they came."""

    __repr__ = short_repr

    def report(self) -> dict[str, Any]:
        """The network calls and the rate, as JSON values."""
        return {"nfe": self.nfe, **self.throughput.rates()}


def gather(batches: Iterable[Drawn], throughput: Throughput) -> Samples:
    """All samples of `draw`, timed by `throughput`."""
    parts, nfe = [], 0
    for drawn in batches:
        parts.append(drawn.images)
        nfe = drawn.nfe
        throughput.add(len(drawn.seeds))
    return Samples(np.concatenate(parts), nfe, throughput)
