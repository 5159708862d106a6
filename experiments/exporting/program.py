"""A whole sampler as a program of `jax.export`: (arrays, seeds) -> x, the loop over its steps and the noise included.

The weights are arguments, and so are the numbers of the schedule, the solver, the grid and the guidance: the program is
that which `scorefield sample` compiles, and gives the same bits. For that there is one for each platform: in a program
for several of them, jax folds constants before XLA sees them, and sums differ in their last bits. A seed's noise is
drawn in the program, from the key that `scorefield sample` has and the seed, so that samplers that draw noise are as
good as others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.core import Tracer
from jax.tree_util import keystr, tree_flatten_with_path

from diffusion.networks.fast import forms_for
from diffusion.pytree import short_repr
from experiments import streams
from experiments.errors import UsageError, reason
from experiments.runs.model import Model
from experiments.sampling.drawing import asked_by, with_variance
from experiments.sampling.guidance import Guidance
from experiments.sampling.solver import Solver
from samplers.sample import check_path, run_traced

PLATFORMS = ("cpu", "cuda", "tpu")
"""The platforms that a program is for unless others are asked for."""
_run: Any = inspect.unwrap(run_traced)
"""The loop without its jit, which would remember the forms of another platform."""


@dataclass(frozen=True)
class Program:
    """A sampler and what it is called with."""

    exported: Mapping[str, export.Exported]
    """For each platform: (arrays, seeds uint32 (b,)) -> x float32 (b, *event); classes, int32 (b,), come third."""
    arrays: dict[str, np.ndarray]
    """The weights, `params.…`, those of a weaker model, `weak.…`, and the numbers of all else."""

    __repr__ = short_repr


def require_flatbuffers() -> None:
    """Raise UsageError where the package is missing by which `jax.export` writes and reads its programs."""
    try:
        import flatbuffers  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UsageError(
            "jax.export writes and reads programs by the package flatbuffers, which is missing; install it by: pip "
            "install flatbuffers."
        ) from None


def make_program(
    model: Model,
    solver: Solver,
    guidance: Guidance,
    *,
    with_class: bool,
    brownian_tree: bool = False,
    batch: int | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> Program:
    """The program that draws `batch` samples at a time, or any number of them, and its arrays.

    `with_class` says whether it is told classes. Raises UsageError for what does not go together, and for a network
    that cannot be exported.
    """
    require_flatbuffers()
    model = asked_by(model, solver)
    paired = solver.sampler.takes_pair
    guidance.check(model, paired=paired, given_class=with_class)
    if brownian_tree:
        try:
            check_path(model.process, solver.sampler, solver.grid)
        except ValueError as error:
            raise UsageError(f"--sampler {solver.name}: {error}") from None
    parts = _Parts(model, solver, guidance, paired)
    arrays = parts.arrays(with_class)

    def draw(arrays: dict[str, Any], seeds: Any, labels: Any = None) -> Any:
        process, denoise, sampler, times = parts.filled(arrays, labels)
        key = jax.random.key(streams.SAMPLES)
        shape = (seeds.shape[0], *model.event_shape)
        return _run(
            key=key,
            ids=seeds,
            process=process,
            denoise=denoise,
            sampler=sampler,
            grid=times,
            x_init=None,
            shape=shape,
            keep_every=None,
            brownian_tree=brownian_tree,
        )[0]

    count = export.symbolic_shape("b")[0] if batch is None else batch
    given: list[Any] = [{name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}]
    given += [jax.ShapeDtypeStruct((count,), dtype) for dtype in (jnp.uint32, jnp.int32)[: 1 + with_class]]
    try:
        return Program({name: _exported(draw, name, given) for name in platforms}, arrays)
    except UsageError:
        raise
    except Exception as error:  # whatever a network of somebody's own does that cannot be written down
        remedy = "; --batch 64 makes it one for batches of 64 alone" if batch is None else ""
        raise UsageError(f"this sampler cannot be exported ({reason(error)}){remedy}.") from error


def _exported(draw: Callable[..., Any], platform: str, given: list[Any]) -> export.Exported:
    """The program for one platform, with the forms of layers that suit it (`diffusion.networks.fast`)."""
    with forms_for(platform):
        # A function of its own, for jax remembers what it has traced, and knows nothing of the forms.
        return export.export(jax.jit(lambda *arguments: draw(*arguments)), platforms=(platform,))(*given)


@dataclass(frozen=True)
class _Parts:
    """A process, a guided denoiser, a sampler and a grid, as leaves by name."""

    model: Model
    solver: Solver
    guidance: Guidance
    paired: bool

    def arrays(self, with_class: bool) -> dict[str, np.ndarray]:
        """The leaves that are arguments, but for the labels."""
        found: dict[str, Any] = {}

        def look(labels: Any = None) -> int:
            found.update((name, leaf) for name, leaf in self._named(labels)[0] if name is not None)
            return 0

        jax.eval_shape(look, *[jax.ShapeDtypeStruct((2,), jnp.int32)][:with_class])
        return {name: np.asarray(leaf) for name, leaf in found.items()}

    def filled(self, arrays: dict[str, Any], labels: Any) -> Any:
        """(process, denoiser, sampler, times) of these arrays."""
        named, tree = self._named(labels)
        return jax.tree.unflatten(tree, [leaf if name is None else arrays[name] for name, leaf in named])

    def _named(self, labels: Any) -> tuple[list[tuple[str | None, Any]], Any]:
        """(Name and leaf in the order of the tree, the tree); what is traced has no name, nor have whole numbers."""
        model, sampler = self.model, self.solver.sampler
        denoise = self.guidance.denoiser(model, labels, paired=self.paired, with_variance=with_variance(sampler))
        times = np.asarray(self.solver.grid, jnp.result_type(float))
        flat, tree = tree_flatten_with_path((model.process, denoise, sampler, times))
        known = _names_of(model.params, "params") | (
            {} if self.guidance.weak is None else _names_of(self.guidance.weak.params, "weak")
        )
        roots, named = ("process", "denoiser", "sampler", "grid"), []
        for path, leaf in flat:
            array = _as_array(leaf)
            if isinstance(array, Tracer) or not jnp.issubdtype(array.dtype, jnp.floating):
                named.append((None, array))  # a class, or a whole number, which is compiled in
                continue
            place = ".".join((roots[path[0].idx], *(keystr((entry,), simple=True) for entry in path[1:])))
            named.append((known.get(id(leaf), place), array))
        return named, tree


def _names_of(params: Any, root: str) -> dict[int, str]:
    """The name of each array of parameters, by its identity."""
    flat = tree_flatten_with_path(params)[0]
    return {id(leaf): ".".join((root, *(keystr((entry,), simple=True) for entry in path))) for path, leaf in flat}


def _as_array(leaf: Any) -> Any:
    """A number as an array of the default float type, as `diffusion.pytree.as_traced` has it, but never traced."""
    if isinstance(leaf, (bool, np.bool_)):
        return np.asarray(leaf)
    if isinstance(leaf, (int, float, np.number)):
        return np.asarray(leaf, jax.dtypes.canonicalize_dtype(np.float64))
    if isinstance(leaf, np.ndarray):
        kind = jax.dtypes.canonicalize_dtype(leaf.dtype)
        return leaf if leaf.dtype == kind else leaf.astype(kind)
    return leaf
