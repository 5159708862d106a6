"""Every derivative of a function of three arrays, as the code takes them, to be compared with those of another form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

SHAPE = (2, 7, 3, 4)  # batch, tokens, heads, channels


def drawn(number: int, dtype=jnp.float64) -> list[jax.Array]:
    return list(jnp.asarray(np.random.default_rng(0).standard_normal((number, *SHAPE)), dtype))


def every_derivative(function):
    """The values of a function of (q, k, v), and its derivatives as the code takes them, in one program."""

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def all_of_them(q, k, v, dq, dk, dv, ct):
        primals, tangents = (q, k, v), (dq, dk, dv)
        scalar = lambda *a: jnp.sum(ct * function(*a))  # noqa: E731
        gradient = jax.grad(scalar, argnums=(0, 1, 2))
        slope = lambda *a: jnp.sum(ct * jax.jvp(function, a, tangents)[1])  # noqa: E731
        return {
            "value": function(*primals),
            "forward": jax.jvp(function, primals, tangents)[1],
            "reverse": gradient(*primals),
            "forward over forward": jax.jvp(slope, primals, tangents)[1],
            "reverse over forward": jax.grad(slope, argnums=(0, 1, 2))(*primals),
            "forward over reverse": jax.jvp(gradient, primals, tangents)[1],
            "reverse over reverse": jax.grad(
                lambda *a: sum(jnp.vdot(d, g) for d, g in zip(tangents, gradient(*a), strict=True)), argnums=(0, 1, 2)
            )(*primals),
            "one of the three": jax.grad(lambda k: scalar(q, k, v))(k),
            "many tangents": jax.vmap(lambda d: jax.jvp(lambda q: function(q, k, v), (q,), (d,))[1])(
                jnp.stack([dq, dk])
            ),
            "many cotangents": jax.vmap(jax.vjp(function, *primals)[1])(jnp.stack([ct, dv])),
            "rematerialised": jax.grad(jax.checkpoint(scalar))(*primals),
            "linear": jax.linearize(function, *primals)[1](*tangents),
        }

    return all_of_them


def agree(found, wanted, **tolerance):
    for name, answer in wanted.items():
        for one, other in zip(jax.tree.leaves(found[name]), jax.tree.leaves(answer), strict=True):
            np.testing.assert_allclose(one, other, err_msg=name, **tolerance)
