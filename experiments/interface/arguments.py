"""Arguments as people give them, brought into shape or refused in a sentence that names them."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from jaxtyping import ArrayLike, Int32

from diffusion.likelihood import Divergence, Solver
from experiments.errors import UsageError, did_you_mean
from experiments.evaluation.report import EvaluationOptions
from experiments.runs.classes import class_numbers
from experiments.runs.model import Model
from experiments.sampling.choice import AncestralOptions
from experiments.sampling.guidance import UNGUIDED, Guidance
from experiments.sampling.labels import choose_classes
from experiments.sampling.variance import VarianceName
from samplers.sample import Sampler

Labels = ArrayLike | str | Sequence[str]
"""Classes by number or by name: one, or several."""

_LIMITS = ("sigma_min", "sigma_max", "rho")


def whole(name: str, value: Any) -> int:
    """A whole number of at least 1. Raises UsageError, naming the argument, for anything else."""
    try:
        number = _index(value)
    except TypeError:
        raise UsageError(f"{name} is {value!r}; give a whole number.") from None
    if number < 1:
        raise UsageError(f"{name} is {number}; give at least 1.")
    return number


def checked_seeds(seeds: Iterable[int]) -> Sequence[int]:
    """The seeds as a list, or the range that they are.

    Raises UsageError unless they are one or more whole numbers in [0, 2^31).
    """
    if isinstance(seeds, range) and seeds and min(seeds[0], seeds[-1]) >= 0 and max(seeds[0], seeds[-1]) < 2**31:
        return seeds
    try:
        known = [_index(seed) for seed in seeds]
    except TypeError:
        known = []
    if not known or min(known) < 0 or max(known) >= 2**31:
        raise UsageError("seeds are one or more whole numbers from 0 on, below 2^31; give range(64), or [3, 5].")
    return known


def paired(what: str, given: np.ndarray, seeds: Sequence[int] | None) -> tuple[np.ndarray, Sequence[int]]:
    """(What is given, its seeds): one of them alone is repeated for each seed; 0 to n − 1 unless told.

    Raises UsageError, naming `what` they are, when there are as many of neither.
    """
    told = range(len(given)) if seeds is None else checked_seeds(seeds)
    if len(given) == 1:
        given = np.repeat(given, len(told), axis=0)
    if len(given) != len(told) or not len(told):
        raise UsageError(f"{len(given)} {what} have {len(told)} seeds; give a seed for each, or one of them alone.")
    return given, told


def check_distinct(seeds: Sequence[int], labels: Int32[np.ndarray, " n"] | None) -> None:
    """Raise UsageError for a seed that is given twice, unless with two classes: both images would be one."""
    if isinstance(seeds, range):
        return
    seen: set[tuple[int, int]] = set()
    for pair in zip(seeds, [-1] * len(seeds) if labels is None else labels.tolist(), strict=True):
        if pair in seen:
            raise UsageError(f"seeds has {pair[0]} twice, and the same image would be drawn again; give it once.")
        seen.add(pair)


def label_of_each(model: Model, label: Labels | None, seeds: Sequence[int]) -> Int32[np.ndarray, " n"] | None:
    """The class of each seed; None for no class.

    A text is what `choose_classes` makes of it, as `--class` is, and None is "all". One number is for all seeds, and a
    list or an array, of numbers or names, has one for each. Raises UsageError for anything else.
    """
    if label is None or isinstance(label, str):
        classes = choose_classes(model, label, "label")
        return None if classes is None else classes.of(seeds)
    if isinstance(label, list | tuple):
        for seed, one in zip(seeds, label, strict=False):
            if one is None:
                raise UsageError(
                    f"label has None for the seed {seed}; a list has a class for each seed: sample those without one "
                    "by themselves, with label='none'."
                )
            _require_class(one)
    known, count = np.asarray(label), len(seeds)
    if known.ndim == 0:
        _require_class(known.item())
    if known.dtype.kind not in "iuU" or known.shape not in ((), (count,)):
        raise UsageError(f"label is {label!r} for {count} seeds; give one class for all, or a list of one for each.")
    return np.broadcast_to(class_numbers(model, known, "label"), (count,))


def checked_guidance(given: float | Guidance | None) -> Guidance:
    """The guidance of this strength. Raises UsageError for what is not a number."""
    if given is None:
        return UNGUIDED
    if isinstance(given, Guidance):
        return given
    strength = np.asarray(given)
    if strength.ndim or strength.dtype.kind not in "iuf":
        raise UsageError(f"guidance is {given!r}; give a number, 1 for the model itself, or a Guidance.")
    return Guidance(strength=float(strength))


def _index(value: Any) -> int:
    """A whole number, of which True is none. Raises TypeError for anything else."""
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def _require_class(one: Any) -> None:
    if isinstance(one, bool | np.bool_) or not isinstance(one, str | int | np.integer | np.ndarray | jax.Array):
        raise UsageError(
            f"label is {one!r} where a class is wanted; give one by number or by name, or a list of one for each seed."
        )


def check_sampling(sampler: Any, grid: Any, limits: Mapping[str, float] | None) -> None:
    """Raise UsageError for a sampler, a grid or limits that are of no type that these have."""
    if not (sampler is None or isinstance(sampler, str | Sampler | AncestralOptions)):
        called = f", such as {sampler.__name__}()" if isinstance(sampler, type) else ""
        raise UsageError(f"sampler is {sampler!r}; give a name of `scorefield samplers`, or a sampler{called}.")
    if not (grid is None or isinstance(grid, str)):
        raise UsageError(f"grid is of type {type(grid).__name__}; give a name, such as 'karras'.")
    if not (limits is None or isinstance(limits, Mapping)):
        raise UsageError(f"limits is {limits!r}; give a dictionary, such as {{'sigma_max': 80.0}}.")
    for key in limits or {}:
        if key not in _LIMITS:
            raise UsageError(f"limits has no {key!r}{did_you_mean(str(key), _LIMITS)}; choose {', '.join(_LIMITS)}.")


def evaluation_options(options: Mapping[str, Any]) -> EvaluationOptions:
    """The options of an evaluation. Raises UsageError for an unknown one, and for a value of the wrong kind."""
    known = [field.name for field in dataclasses.fields(EvaluationOptions)]
    for name, value in options.items():
        if name not in known:
            raise UsageError(f"evaluate has no option {name}{did_you_mean(name, known)}; choose {', '.join(known)}.")
        counted = name in ("samples", "batch", "seed", "elbo_images", "elbo_draws")
        if counted and (isinstance(value, bool) or not hasattr(value, "__index__")):
            raise UsageError(f"{name} is {value!r}; give a whole number.")
    variances, variance = get_args(VarianceName), options.get("variance", "auto")
    if variance not in variances:
        raise UsageError(f"variance is {variance!r}; choose {', '.join(variances)}.")
    cache = options.get("cache")
    return EvaluationOptions(**{**options, "cache": None if cache is None else Path(cache)})


def check_flow(method: Any, solver: Any) -> None:
    """Raise UsageError for a divergence or a solver of the flow that is not one; None is the usual one."""
    if not (method is None or isinstance(method, Divergence)):
        raise UsageError(f"method is {method!r}; give one of scorefield's, such as Hutchinson().")
    if not (solver is None or isinstance(solver, Solver)):
        raise UsageError(f"solver is {solver!r}; give one of scorefield's, such as Adaptive().")
