"""The table of identities: what is claimed, against what it is measured, and how far off it may be.

An identity is a function from a `Setting` to what it `Measured`, registered with everything that a reader needs to
judge it. The command line, the report, the page of equations and the tests all read this one table.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import pkgutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import jax
import numpy as np

from experiments.verification.report.plots import Bars, Plot

Precision = Literal["float64", "float32", "bfloat16"]
Kind = Literal["exact", "statistical", "false"]

ROUNDOFF: dict[str, float] = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-9}
"""The unit roundoff of each precision: half the distance from 1 to the next larger number."""
ANSWERS = 40.0
"""The most unit roundoffs that an identity may be off by in bfloat16, where only the networks' answers are rounded."""
STANDARD_ERRORS = 4.0
"""The bound of a statistical check: if the identity holds, one comparison in 15,787 exceeds it by chance."""

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Setting:
    """The conditions under which identities are measured."""

    precision: Precision = "float64"
    """The precision of the arithmetic; bfloat16 rounds the networks' answers alone and computes the rest in float32, as
    in training."""
    dim: int = 3
    """The dimension of every law whose dimension is not fixed by its identity."""
    seeded: float = 0.0
    """The relative error put into the formula, to see whether a statistical check detects it."""

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision = {self.precision!r}; choose {', '.join(get_args(Precision))}.")
        if not 1 <= self.dim <= 64:
            raise ValueError(f"dim = {self.dim}; give 1 to 64, up to which divergences are exact.")

    def key(self, purpose: int) -> jax.Array:
        """The random key for one purpose within an identity: another purpose has another key."""
        return jax.random.key(purpose)

    def answered(self, function: Callable[..., Any]) -> Any:
        """A denoiser, or another function in the place of a network; in bfloat16 its answers are rounded."""
        if self.precision != "bfloat16":
            return function
        return jax.tree_util.Partial(_rounded, function)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """A context in which JAX computes in float64, or for the other precisions in float32."""
        with jax.enable_x64(self.precision == "float64"):
            yield


def _rounded(function: Callable[..., Any], *arguments: Any) -> Any:
    # XLA may remove a pair of casts, but never `reduce_precision`.
    return jax.tree.map(lambda x: jax.lax.reduce_precision(x, 8, 7), function(*arguments))


@dataclass(frozen=True)
class Measured:
    """The outcome of a measurement."""

    error: float
    """The number to be held against the bound: a relative error, or for a statistical check one in standard errors."""
    detail: str = ""
    """A few words on the numbers behind the error."""
    plot: Plot | None = None
    """The picture for the report."""


@dataclass(frozen=True)
class Within:
    """The bound of an identity that is exact but for rounding, or for an error that is known to be small."""

    tolerance: float
    """The largest error in float64."""
    why: str
    """The reason for this tolerance."""
    roundoffs: float = 0.0
    """The error allowed below float64, in unit roundoffs, where that is more than the tolerance."""
    kind: ClassVar[Kind] = "exact"


@dataclass(frozen=True)
class WithinChance:
    """The bound of a statistical check: `STANDARD_ERRORS` standard errors."""

    why: str
    """The number of comparisons that share this bound, and how often chance alone exceeds it."""
    detects: float
    """The relative error, put in by `Setting.seeded`, that the check detects."""
    tolerance: ClassVar[float] = STANDARD_ERRORS
    kind: ClassVar[Kind] = "statistical"


@dataclass(frozen=True)
class OffBy:
    """The bound of a false statement, which is refuted by an error at least as large as this."""

    tolerance: float
    """The smallest error that refutes it."""
    why: str
    """The reason for the error, and what holds instead."""
    kind: ClassVar[Kind] = "false"


Bound = Within | WithinChance | OffBy


@dataclass(frozen=True)
class Identity:
    """A row of the table."""

    row: str
    """The number of the row, such as 19 or 19b."""
    name: str
    topics: tuple[str, ...]
    """The words by which `--only` finds it; the first is its section on the page."""
    title: str
    latex: str
    """The equation, in the part of TeX that matplotlib understands."""
    compared: str
    """The two sides that are compared, in words."""
    oracle: str
    """The origin of the exact answer."""
    source: str
    """The papers or books that state it."""
    bound: Bound
    """The largest error, or for a false statement the smallest, and the reason for it."""
    functions: tuple[Any, ...]
    """The public functions, classes or methods that state it."""
    measure: Callable[[Setting], Measured]
    answers: bool = False
    """Whether a network's answer enters, so that bfloat16 has something to round."""
    test: str = ""
    """The test file that goes deeper, if any."""

    def __repr__(self) -> str:
        return f"Identity({self.row} {self.name})"

    @property
    def topic(self) -> str:
        """The topic under which it stands on the page."""
        return self.topics[0]

    @property
    def kind(self) -> Kind:
        """The kind of its bound: an exact identity, a statistical check or a false statement."""
        return self.bound.kind

    @property
    def detects(self) -> float | None:
        """The relative error that a statistical check detects; None for the other kinds."""
        return self.bound.detects if isinstance(self.bound, WithinChance) else None

    def allowed(self, precision: Precision) -> float:
        """The tolerance in this precision."""
        if not isinstance(self.bound, Within) or precision == "float64":
            return self.bound.tolerance
        roundoffs = min(self.bound.roundoffs, ANSWERS) if precision == "bfloat16" else self.bound.roundoffs
        return max(self.bound.tolerance, roundoffs * ROUNDOFF[precision])

    def passes(self, error: float, precision: Precision) -> bool:
        """Whether a measured error is within the bound, or refutes a false statement; NaN never does either."""
        return error >= self.bound.tolerance if self.kind == "false" else error <= self.allowed(precision)


@dataclass(frozen=True)
class Row:
    """An identity, measured."""

    identity: Identity
    precision: Precision
    measured: Measured
    seconds: float
    failure: str = ""
    """The reason why it could not be measured; empty if it was."""

    @property
    def passed(self) -> bool:
        """Whether it was measured and its error is as it should be."""
        return not self.failure and self.identity.passes(self.measured.error, self.precision)

    def report(self) -> dict[str, Any]:
        """The row as JSON values."""
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


def identity(
    *,
    row: str,
    title: str,
    latex: str,
    compared: str,
    oracle: str,
    source: str,
    bound: Bound,
    functions: tuple[Any, ...],
    answers: bool = False,
    topics: tuple[str, ...] | None = None,
    test: str | None = None,
) -> Callable[[Callable[[Setting], Measured]], Callable[[Setting], Measured]]:
    """A decorator that puts the measuring function into the table, under the facts of `Identity`.

    The identity's name is that of the function. Its topics, unless given, are the TOPICS of the function's module, or
    the module's name if it has none. Its test file, unless given (empty for none), is the one that mirrors the module
    of the first of `functions`, if that exists. Raises ValueError for a name or a row that is taken.
    """

    def register(measure: Callable[[Setting], Measured]) -> Callable[[Setting], Measured]:
        stem = measure.__module__.rpartition(".")[2]
        one = Identity(
            row=row,
            name=_with_hyphens(measure.__name__),
            topics=topics or measure.__globals__.get("TOPICS", (_with_hyphens(stem),)),
            title=title,
            latex=latex,
            compared=compared,
            oracle=oracle,
            source=source,
            bound=bound,
            functions=functions,
            measure=measure,
            answers=answers,
            test=_mirrored_test(functions[0].__module__) if test is None else test,
        )
        for other in _REGISTRY.values():
            if one.name == other.name or one.row == other.row:
                raise ValueError(f"the identity {one.row} {one.name} is there already, as {other.row} {other.name}.")
        _REGISTRY[one.name] = one
        return measure

    return register


def _mirrored_test(module: str) -> str:
    """tests/a/test_b.py for the module a.b; empty if there is no such file."""
    *packages, stem = module.split(".")
    path = "/".join(["tests", *packages, f"test_{stem}.py"])
    return path if (_ROOT / path).exists() else ""


def _with_hyphens(name: str) -> str:
    return name.strip("_").replace("_", "-")


@functools.cache
def identities() -> tuple[Identity, ...]:
    """All identities of the modules in `experiments.verification.identities`, in the order of their numbers."""
    from experiments.verification import identities as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return tuple(sorted(_REGISTRY.values(), key=lambda one: _place(one.row)))


def _place(row: str) -> tuple[bool, int, str]:
    digits = "".join(letter for letter in row if letter.isdigit())
    return row.startswith("N"), int(digits), row


def run(one: Identity, setting: Setting) -> Row:
    """Measure one identity. An exception on the way is a failure of this row and leaves the other rows alone."""
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
    """The identities that mean something in this precision: in bfloat16, those that a network's answer enters."""
    return [one for one in identities() if setting.precision != "bfloat16" or one.answers]


def shown(value: float) -> str:
    """A measured number as it is printed: 2.9, 3.1e-15."""
    if not np.isfinite(value):
        return "not a number"
    return f"{value:.2g}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.1e}"


def largest(*values: Any) -> float:
    """The largest of several numbers, or of one iterable of numbers; NaN if any of them is, which `max` may miss."""
    return float(np.max(list(values[0]) if len(values) == 1 else values))


def worst_of(values: Mapping[str, float], plot: Plot | None = None) -> Measured:
    """The largest of several errors, or NaN if one is, with its name; they are the plot unless another is given."""
    name = max(values, key=lambda key: values[key] if values[key] == values[key] else np.inf)
    return Measured(values[name], f"largest for {name}", plot or Bars(dict(values)))


def refuted(setting: Setting, false: float, right: float) -> float:
    """The error of a false statement, or 0 if what holds instead is off as well, as nothing is refuted then."""
    return false if right < (1e-10 if setting.precision == "float64" else 1e-4) else 0.0


def relative(found: Any, expected: Any) -> float:
    """The largest |found − expected| over the largest |expected|, or over 1 if everything expected is 0."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    scale = float(np.max(np.abs(expected)))
    return float(np.max(np.abs(found - expected))) / (scale if scale > 0 else 1.0)
