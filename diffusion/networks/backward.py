"""Functions whose gradient is computed in a way of their own, and every other derivative as JAX would.

`jax.custom_vjp` gives a function its own backward pass and takes forward mode and second derivatives away, which
likelihoods, divergences and conservative networks need. Here the tangent is a primitive: evaluated, batched and
differentiated by the plain formula, and transposed by the function's own backward pass.

    f = with_backward(plain, backward)        f(x) = plain(x),    x̄ = backward(ȳ, x) in a first gradient

`rematerialised` is made of it: a layer of which only the inputs are kept, and whose values are computed again for the
gradient. `jax.checkpoint` does not do that on a CPU: XLA takes its barriers away there before it merges what is
computed twice (`cse_barrier_expander`), and no memory is saved (jax 0.10.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

Function = Callable[..., Array]


def with_backward(
    plain: Function, backward: Callable[..., Sequence[Array]], forward: Function | None = None
) -> Function:
    """`plain`, a function of arrays to one array, whose first gradient is `backward`.

    backward(ȳ, *arguments) has the cotangents of those arguments that are floating-point numbers, in their order.
    `forward` computes the values where no derivative is asked for, `plain` unless given. None of the three may hold
    tracers: what they depend on are arguments.
    """

    @jax.custom_jvp
    def function(*arguments: Array) -> Array:
        return (forward or plain)(*arguments)

    def rule(primals: Sequence[Array], tangents: Sequence[Any]) -> tuple[Array, Array]:
        moving = _floating(primals)
        value = function(*primals)
        about = {"plain": plain, "backward": backward, "moving": moving, "shape": value.shape, "dtype": value.dtype}
        return value, tangent_p.bind(*primals, *(tangents[i] for i in moving), **about)

    function.defjvp(rule)
    return function


def rematerialised(layer: Function, remat: bool) -> Function:
    """The same layer, an `nnx.Module`; with `remat` its values are computed again for the gradient and not kept.

    Source: Chen et al. 2016, arXiv:1604.06174.
    """

    def called(*arguments: Any) -> Array:
        graph, state = nnx.split(layer)
        weights = len(jax.tree.leaves(state))
        leaves, tree = jax.tree.flatten((state, arguments))

        def plain(*leaves: Array) -> Array:
            state, arguments = jax.tree.unflatten(tree, leaves)
            return nnx.merge(graph, state)(*arguments)

        def again(cotangent: Array, *leaves: Array) -> Sequence[Array]:
            moving = _floating(leaves)
            # What is computed from inputs that depend on the cotangent cannot be merged with the first computation.
            nothing = 0 * cotangent.reshape(-1)[0]
            tied = [a + nothing.astype(a.dtype) if i in moving and i >= weights else a for i, a in enumerate(leaves)]
            return jax.vjp(_of(plain, tied, moving), *(tied[i] for i in moving))[1](cotangent)

        return with_backward(plain, again)(*leaves)

    return called if remat else layer


def _floating(arrays: Sequence[Array]) -> tuple[int, ...]:
    return tuple(i for i, array in enumerate(arrays) if jnp.issubdtype(array.dtype, jnp.inexact))


def _of(function: Function, arguments: Sequence[Array], places: Sequence[int]) -> Function:
    """`function` of the arguments at these places alone."""

    def restricted(*varying: Array) -> Array:
        replaced = dict(zip(places, varying, strict=True))
        return function(*(replaced.get(i, argument) for i, argument in enumerate(arguments)))

    return restricted


def _parts(arguments: Sequence[Any], moving: tuple[int, ...]) -> tuple[Sequence[Any], Sequence[Any]]:
    return arguments[: len(arguments) - len(moving)], arguments[len(arguments) - len(moving) :]


def _tangent(*arguments: Array, plain: Function, moving: tuple[int, ...], **_: Any) -> Array:
    primals, linear = _parts(arguments, moving)
    return jax.jvp(_of(plain, primals, moving), tuple(primals[i] for i in moving), tuple(linear))[1]


def _tangent_jvp(primals: Sequence[Array], tangents: Sequence[Any], **about: Any) -> tuple[Array, Array]:
    places = [i for i, tangent in enumerate(tangents) if type(tangent) is not ad.Zero]
    function = _of(lambda *arguments: _tangent(*arguments, **about), primals, places)
    return jax.jvp(function, tuple(primals[i] for i in places), tuple(tangents[i] for i in places))


def _tangent_transpose(cotangent: Any, *arguments: Any, backward: Any, moving: Any, **_: Any) -> list[Any]:
    primals, linear = _parts(arguments, moving)
    if type(cotangent) is ad.Zero:
        return [None] * len(arguments)
    answers = zip(backward(cotangent, *primals), linear, strict=True)
    return [None] * len(primals) + [answer if ad.is_undefined_primal(asked) else None for answer, asked in answers]


def _tangent_batch(arguments: Sequence[Array], axes: Sequence[int | None], **about: Any) -> tuple[Array, int]:
    size = next(array.shape[axis] for array, axis in zip(arguments, axes, strict=True) if axis is not None)
    at_front = [a if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(arguments, axes, strict=True)]
    of_primals, of_linear = _parts([None if axis is None else 0 for axis in axes], about["moving"])
    if any(axis == 0 and of_primals[i] is None for i, axis in zip(about["moving"], of_linear, strict=True)):
        # Many tangents at one place: the place is not repeated, and JAX has the transpose.
        return jax.vmap(lambda *a: _tangent(*a, **about), in_axes=(*of_primals, *of_linear))(*at_front), 0
    primals, linear = _parts(at_front, about["moving"])
    linear = [
        jnp.broadcast_to(array, (size, *array.shape)) if of_primals[i] == 0 and axis is None else array
        for i, array, axis in zip(about["moving"], linear, of_linear, strict=True)
    ]
    answer = tangent_p.bind(*primals, *linear, **_batched(about, tuple(of_primals), size))
    return answer, 0


def _batched(about: dict[str, Any], axes: tuple[int | None, ...], size: int) -> dict[str, Any]:
    """What a tangent is told of a function, for a batch of its values."""
    plain, backward, moving = about["plain"], about["backward"], about["moving"]

    def backwards(cotangent: Array, *primals: Array) -> list[Array]:
        answers = jax.vmap(backward, in_axes=(0, *axes))(cotangent, *primals)
        return [a.sum(0) if axes[i] is None else a for i, a in zip(moving, answers, strict=True)]

    return about | {
        "plain": jax.vmap(plain, in_axes=axes),
        "backward": backwards,
        "shape": (size, *about["shape"]),
    }


tangent_p = Primitive("tangent_with_backward")
"""(*x, *dx) to the tangent of plain(*x), linear in dx, which are the tangents of the floating-point arguments."""
tangent_p.def_impl(_tangent)
tangent_p.def_abstract_eval(lambda *_, shape, dtype, **__: ShapedArray(shape, dtype))
mlir.register_lowering(tangent_p, mlir.lower_fun(_tangent, multiple_results=False))
ad.primitive_jvps[tangent_p] = _tangent_jvp
ad.primitive_transposes[tangent_p] = _tangent_transpose
batching.primitive_batchers[tangent_p] = _tangent_batch
