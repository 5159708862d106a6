"""The faults that `tests.mutation` seeds: the right ones, one at a time, and only into formulas."""

import ast
import tomllib
from pathlib import Path

import pytest

from tests.mutation.__main__ import TABLE, Known, _defined, _imports, judges, key, sample
from tests.mutation.forks import instrumented
from tests.mutation.mutants import OPERATORS, mutants_of, sources

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def texts():
    return sources(ROOT)


@pytest.fixture(scope="module")
def found(texts):
    return {path: mutants_of(path, text) for path, text in texts.items()}


@pytest.mark.parametrize(
    ("operator", "expression", "expected"),
    [
        ("sign", "x + n", ["x - n"]),
        ("sign", "(x) - (n)", ["(x) + (n)"]),
        ("sign", "-x", ["x"]),
        ("sign", "jnp.exp(x * n)", ["jnp.exp(-(x * n))"]),
        ("sign", "jnp.expm1(-x)", ["jnp.expm1(x)"]),
        ("half", "0.5 * x", ["1.0 * x"]),
        ("half", "2 * x / 2.0", ["1 * x / 2.0", "2 * x / 1.0"]),
        ("half", "2 + x[2]", []),
        ("factor", "(x + n) * z", ["(x + n)", "z"]),
        ("factor", "x / n", ["x"]),
        ("factor", "0.5 * (x,)", []),
        ("quotient", "x * n", ["x / n"]),
        ("quotient", "(x + n) / z", ["(x + n) * z"]),
        ("alpha_sigma", "process.alpha(z)", ["process.sigma(z)"]),
        ("alpha_sigma", "process.sigma_dot(z)", ["process.alpha_dot(z)"]),
        ("alpha_sigma", "alpha_t", ["sigma_t"]),
        ("alpha_sigma", "alpha_s + process.log_alpha(z)", []),
        ("off_by_one", "n - 1", ["n"]),
        ("off_by_one", "1 - n", []),
        ("off_by_one", "(x[1], x[0], x[-1])", ["(x[0], x[0], x[-1])", "(x[1], x[0], x[-2])", "(x[1], x[1], x[-1])"]),
        ("off_by_one", "(x[1:], x[:-1])", ["(x[1:], x[:-2])", "(x[2:], x[:-1])"]),
        ("off_by_one", "range(n)", ["range(n - 1)"]),
        ("direction", "t", ["s"]),
        ("direction", "f('σ̂', t, s)", ["f('σ̂', s, s)", "f('σ̂', s, t)", "f('σ̂', t, t)"]),
        ("direction", "f(x[:-1], x[1:])", ["f(x[1:], x[:-1])"]),
        ("direction", "x[::-1]", ["x[::1]"]),
        ("comparison", "0 < x <= n", ["0 < x > n", "0 >= x <= n"]),
        ("comparison", "x == n", ["x != n"]),
        ("power", "jnp.sqrt(x + n)", ["(x + n)"]),
        ("power", "x**2 + n**3", ["x + n**3"]),
        ("stage", "denoise(x, n) + denoise(x, t)", ["denoise(x, t) + denoise(x, t)"]),
        ("neighbours", "sum_event(x**2)", ["jnp.sum(x**2)"]),
        ("pairing", "perturb(process, x, z, t)", ["perturb(process, x, z[::-1], t)"]),
    ],
)
def test_an_operator_makes_these_faults(operator, expression, expected):
    text = f"def f(process, t, s, alpha_t, sigma_t, x, z, n):\n    return {expression}\n"
    faults = [mutant for mutant in mutants_of("toy.py", text) if mutant.operator == operator]
    assert sorted(fault.after.removeprefix("return ") for fault in faults) == expected
    assert sorted(fault.apply(text).splitlines()[1].strip() for fault in faults) == [f"return {e}" for e in expected]


LEFT_ALONE = '''
"""α(t) - 0.5 * sigma[1]"""
Value = Float[Array, "n+1"]
tolerance = 1 + 1e-9

@decorated(2 * 3)
class C:
    """1 - 1."""

    x: Float[Array, "b*2"] = 0.5 * 2

    def f(self, x: f(1 - 2), n=-1) -> g(2 * 3):
        """a - b."""
        if x - 1 > n:
            raise ValueError(f"{x - 1} is above {2 * n}")
        assert x < n
        y: int = x.reshape(-1, n * 2)
        block = n // 2 - 1
        return jnp.sum(x.shape[1:], axis=-1)
'''


def test_nothing_but_formulas_is_touched():
    assert mutants_of("toy.py", LEFT_ALONE) == []


def test_a_mutant_knows_where_it_is():
    text = "TABLE = [1 / 6]\nclass C:\n    def f(self, x):\n        if x:\n            y = lambda: -x\n"
    outer, *_, inner = mutants_of("toy.py", text)
    assert (outer.function, outer.line, outer.block) == ("", 1, None)
    assert (inner.function, inner.line, inner.block) == ("C.f", 5, 5)


@pytest.mark.parametrize(
    ("line", "reads"),
    [
        ("from diffusion.ddpm.chains import step", True),
        ("from diffusion.ddpm import step", True),
        ("from diffusion import Chain as C, VP", True),
        ("from diffusion.ddpm import chains", True),
        ("from diffusion.ddpm import elbo_term", False),
        ("from diffusion.ddpm.elbo import step", False),
        ("from diffusion.dd import step", False),
    ],
)
def test_a_module_is_read_by_its_name_or_by_way_of_a_package(line, reads):
    names = _defined("TABLE = [1]\nclass Chain:\n    x = 1\ndef step(y):\n    return y\n")
    assert {"TABLE", "Chain", "step"} <= names
    assert _imports(line, "diffusion/ddpm/chains.py", names) is reads


def test_a_table_is_judged_by_those_who_read_it_the_nearest_first():
    text = "TABLE = [1 / 6]\ndef f():\n    return TABLE\n"
    texts = {"diffusion/ddpm/a.py": text, "samplers/b.py": "from diffusion.ddpm import f\n", "samplers/c.py": ""}
    tests = {
        "tests/samplers/test_b.py::test_b": Known(0.1, frozenset({"samplers/b.py:3"})),
        "tests/samplers/test_c.py::test_c": Known(0.1, frozenset({"samplers/c.py:3"})),
        "tests/diffusion/ddpm/test_d.py::test_d": Known(0.3, frozenset({"diffusion/ddpm/a.py:3"})),
        "tests/diffusion/ddpm/test_a.py::test_a": Known(0.5, frozenset({"diffusion/ddpm/a.py:3"})),
    }
    near = ["tests/diffusion/ddpm/test_a.py::test_a", "tests/diffusion/ddpm/test_d.py::test_d"]
    mutant = mutants_of("diffusion/ddpm/a.py", text)[0]
    assert judges(mutant, texts, tests) == [*near, "tests/samplers/test_b.py::test_b"]


def test_probes_tell_which_blocks_are_entered():
    text = 'def f(x):\n    """Doc."""\n    if x:\n        return 1\n    else:\n        return 2\n'
    names = {"__reached__": set()}
    exec(instrumented("toy.py", text), names)
    assert names["__reached__"] == set()
    assert names["f"](False) == 2
    assert names["f"].__doc__ == "Doc."
    assert names["__reached__"] == {"toy.py:2", "toy.py:6"}


def test_every_block_of_a_mutant_has_a_probe(texts, found):
    for path in [*found][::4]:  # parsing takes time
        probes = instrumented(path, texts[path])
        assert all(f"'{path}:{mutant.block}'" in probes for mutant in found[path] if mutant.block is not None), path


def test_the_sample_is_reproducible_and_covers_every_file_and_operator(found):
    drawn = sample(found, 240, seed=0)
    assert len(drawn) == 240
    assert drawn == sample(dict(reversed(found.items())), 240, seed=0)
    assert drawn != sample(found, 240, seed=1)
    assert {mutant.path for mutant in drawn} == {path for path, mutants in found.items() if mutants}
    assert {mutant.operator for mutant in drawn} == set(OPERATORS)


def test_a_mutant_is_a_program_that_differs_in_one_place(texts, found):
    for mutant in sample(found, 80, seed=0):
        original, (start, end, new) = texts[mutant.path], mutant.edit
        text = mutant.apply(original)
        assert (text[:start], text[start:].removeprefix(new)) == (original[:start], original[end:])
        assert ast.dump(ast.parse(text)) != ast.dump(ast.parse(original)), mutant


def test_explained_survivors_are_mutants_that_can_be_seeded(found):
    entries = tomllib.loads(TABLE.read_text()).get("survivor", []) if TABLE.exists() else []
    keys = {mutant.key for mutants in found.values() for mutant in mutants}
    for entry in entries:
        assert key(entry) in keys, entry
        assert isinstance(entry["equivalent"], bool)
        assert entry["why"]
