"""The table of identities: what is claimed, against what it is measured, and how far off it may be.

An identity is a function from a `Setting` to what it `Measured`, registered with everything that a reader needs to
judge it. The command line, the report, the page of equations and the tests all go through this one table.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import pkgutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import jax
import numpy as np

from experiments.verification.report.plots import Bars, Plot

Precision = Literal["float64", "float32", "bfloat16"]
Kind = Literal["exact", "statistical", "false"]

ROUNDOFF: dict[str, float] = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-9}
"""Half the distance from 1 to the next number."""
ANSWERS = 40.0
"""Roundoffs that an identity may be off by in bfloat16 at most, where nothing but networks' answers is rounded."""
STANDARD_ERRORS = 4.0
"""What a statistical check may be off by: if the identity holds, one comparison in 15,787 is further off by chance."""


@dataclass(frozen=True)
class Setting:
    """The conditions under which identities are measured."""

    precision: Precision = "float64"
    """The precision of all arithmetic; bfloat16 is that of networks' answers alone, with float32 for the rest, as in
    training."""
    dim: int = 3
    """The dimension of the laws whose dimension is free."""
    seeded: float = 0.0
    """A relative error put into the formula, to see what a statistical check detects."""

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision = {self.precision!r}; choose {', '.join(get_args(Precision))}.")
        if not 1 <= self.dim <= 64:
            raise ValueError(f"dim = {self.dim}; give 1 to 64, up to which divergences are exact.")

    def key(self, purpose: int) -> jax.Array:
        """A key of its own for each purpose within an identity."""
        return jax.random.key(purpose)

    def answered(self, function: Callable[..., Any]) -> Any:
        """A denoiser, or another function that a network would be, its answers rounded to bfloat16 if so set."""
        if self.precision != "bfloat16":
            return function
        return jax.tree_util.Partial(_rounded, function)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Float64 arithmetic for the duration, or float32."""
        with jax.enable_x64(self.precision == "float64"):
            yield


def _rounded(function: Callable[..., Any], *arguments: Any) -> Any:
    # Not two casts, which XLA may take for none.
    return jax.tree.map(lambda x: jax.lax.reduce_precision(x, 8, 7), function(*arguments))


@dataclass(frozen=True)
class Measured:
    """The outcome of a measurement."""

    error: float
    """The number that the tolerance bounds: a relative error, or standard errors of a statistical check."""
    detail: str = ""
    """A few words on the numbers behind it."""
    plot: Plot | None = None
    """The picture in the report."""


@dataclass(frozen=True)
class Identity:
    """A row of the table."""

    row: str
    """Its number, such as 19 or 19b."""
    name: str
    topics: tuple[str, ...]
    """The words that `--only` finds it by; the first is its section on the page."""
    title: str
    latex: str
    """The equation, in what both TeX and matplotlib understand."""
    compared: str
    """The two sides that are compared, in words."""
    oracle: str
    """Where the exact answer comes from."""
    source: str
    tolerance: float
    """The largest error in float64; STANDARD_ERRORS for statistical checks; the least error of false statements."""
    why: str
    """The reason for that tolerance."""
    functions: tuple[Any, ...]
    """The public functions that state it: functions, classes or methods of classes."""
    measure: Callable[[Setting], Measured]
    kind: Kind = "exact"
    amplification: float = 0.0
    """The error allowed below float64, in unit roundoffs, where that is more than the tolerance."""
    answers: bool = False
    """Whether a network's answer enters, so that bfloat16 has something to round."""
    detects: float | None = None
    """The relative error, put in by `Setting.seeded`, that a statistical check detects."""
    test: str = ""
    """The test file that goes deeper, if any."""

    @property
    def topic(self) -> str:
        """The topic that it stands under."""
        return self.topics[0]

    def allowed(self, precision: Precision) -> float:
        """The tolerance in this precision."""
        if self.kind != "exact" or precision == "float64":
            return self.tolerance
        roundoffs = min(self.amplification, ANSWERS) if precision == "bfloat16" else self.amplification
        return max(self.tolerance, roundoffs * ROUNDOFF[precision])

    def passes(self, error: float, precision: Precision) -> bool:
        """Whether a measured error is as it should be; NaN never is."""
        return error >= self.tolerance if self.kind == "false" else error <= self.allowed(precision)


@dataclass(frozen=True)
class Row:
    """An identity, measured."""

    identity: Identity
    precision: Precision
    measured: Measured
    seconds: float
    failure: str = field(default="")
    """The reason why it could not be measured."""

    @property
    def passed(self) -> bool:
        """Whether it was measured, and is as it should be."""
        return not self.failure and self.identity.passes(self.measured.error, self.precision)

    def report(self) -> dict[str, Any]:
        """As JSON values."""
        one, error = self.identity, self.measured.error
        return {
            "id": one.row,
            "name": one.name,
            "topic": one.topic,
            "kind": one.kind,
            "compared": one.compared,
            "oracle": one.oracle,
            "measured": error if np.isfinite(error) else None,
            "tolerance": one.allowed(self.precision),
            "passed": self.passed,
            "seconds": round(self.seconds, 3),
            "precision": self.precision,
            "roundoffs": error / ROUNDOFF[self.precision] if one.kind == "exact" and np.isfinite(error) else None,
            "detects": one.detects,
            "detail": self.measured.detail,
            "failure": self.failure,
        }


_REGISTRY: dict[str, Identity] = {}


def identity(**facts: Any) -> Callable[[Callable[[Setting], Measured]], Callable[[Setting], Measured]]:
    """A decorator that puts the measuring function into the table, under the facts of `Identity`.

    Its name is that of the function. Its topics, unless given, are the TOPICS of the function's module, or where there
    are none the module's name. Raises ValueError for a name or a row that is taken.
    """

    def register(measure: Callable[[Setting], Measured]) -> Callable[[Setting], Measured]:
        stem = measure.__module__.rpartition(".")[2]
        named = {
            "name": _with_hyphens(measure.__name__),
            "topics": measure.__globals__.get("TOPICS", (_with_hyphens(stem),)),
        }
        one = Identity(measure=measure, **named | facts)
        for other in _REGISTRY.values():
            if one.name == other.name or one.row == other.row:
                raise ValueError(f"the identity {one.row} {one.name} is there already, as {other.row} {other.name}.")
        if one.kind == "statistical" and one.detects is None:
            raise ValueError(f"the identity {one.name} is statistical; say which error it detects.")
        _REGISTRY[one.name] = one
        return measure

    return register


def _with_hyphens(name: str) -> str:
    return name.strip("_").replace("_", "-")


@functools.cache
def identities() -> tuple[Identity, ...]:
    """All of them, in the order of their numbers: every module of `experiments.verification.identities` is imported."""
    from experiments.verification import identities as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return tuple(sorted(_REGISTRY.values(), key=lambda one: _place(one.row)))


def _place(row: str) -> tuple[bool, int, str]:
    digits = "".join(letter for letter in row if letter.isdigit())
    return row.startswith("N"), int(digits), row


def run(one: Identity, setting: Setting) -> Row:
    """Measure one identity. What goes wrong on the way is a failure of that row, not of the table."""
    start = time.perf_counter()
    try:
        with setting.active():
            measured = one.measure(setting)
        failure = ""
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        measured = Measured(float("nan"))
        failure = f"{type(error).__name__}: {error} ({line.name}, line {line.lineno})"
    return Row(one, setting.precision, measured, time.perf_counter() - start, failure)


def applicable(setting: Setting) -> Sequence[Identity]:
    """Those that say something in this precision: in bfloat16, those that a network's answer enters."""
    return [one for one in identities() if setting.precision != "bfloat16" or one.answers]


def shown(value: float) -> str:
    """A measured number as people read it: 2.9, 3.1e-15."""
    if not np.isfinite(value):
        return "not a number"
    return f"{value:.2g}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.1e}"


def largest(*values: Any) -> float:
    """The largest of numbers, or of one iterable of numbers; NaN when one of them is, which `max` may pass over."""
    return float(np.max(list(values[0]) if len(values) == 1 else values))


def worst_of(values: Mapping[str, float], plot: Plot | None = None) -> Measured:
    """The largest of several errors, NaN if there is one, and for what it is; their plot unless another is given."""
    name = max(values, key=lambda key: values[key] if values[key] == values[key] else np.inf)
    return Measured(values[name], f"largest for {name}", plot or Bars(dict(values)))


def refuted(setting: Setting, false: float, right: float) -> float:
    """How far off a false statement is; 0 where what is true does not hold: the refutation would be worth nothing."""
    return false if right < (1e-10 if setting.precision == "float64" else 1e-4) else 0.0


def relative(found: Any, expected: Any) -> float:
    """The largest |found − expected| over the largest |expected|, or over 1 where all of that is 0."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    scale = float(np.max(np.abs(expected)))
    return float(np.max(np.abs(found - expected))) / (scale if scale > 0 else 1.0)
