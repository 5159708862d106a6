"""The arrows experiments -> samplers -> diffusion never run back, and the core stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = {"diffusion": 0, "samplers": 1, "experiments": 2}
CORE = {"jax", "jaxlib", "numpy", "jaxtyping", *sys.stdlib_module_names}


def imported(path):
    """Top-level names of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def files(layer):
    return sorted((ROOT / layer).rglob("*.py"))


@pytest.mark.parametrize("layer", LAYERS)
def test_arrows_do_not_run_back(layer):
    for path in files(layer):
        for module in imported(path):
            top = module.split(".")[0]
            assert LAYERS.get(top, 0) <= LAYERS[layer], f"{path} imports {module}"


@pytest.mark.parametrize("layer", ["diffusion", "samplers"])
def test_the_core_imports_nothing_heavy(layer):
    for path in files(layer):
        allowed = CORE | set(LAYERS) | ({"flax"} if "networks" in path.parts else set())
        if path.name == "adaptive.py":  # an extra, which `import samplers` does not import
            allowed = allowed | {"diffrax", "equinox", "lineax"}
        for module in imported(path):
            assert module.split(".")[0] in allowed, f"{path} imports {module}"


def test_only_one_module_speaks_to_the_devices_or_to_orbax():
    for path in files("experiments"):
        text = path.read_text()
        assert "jax.pmap(" not in text or path.name == "replicas.py" or path.name == "loop.py", path
        assert "orbax" not in {module.split(".")[0] for module in imported(path)} or path.name == "checkpoint.py", path


@pytest.mark.parametrize("layer", LAYERS)
def test_files_and_functions_fit_on_a_screen(layer):
    for path in files(layer):
        text = path.read_text()
        assert text.count("\n") <= 350, f"{path} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                docstring = ast.get_docstring(node) or ""
                lines = (node.end_lineno or 0) - node.lineno + 1 - docstring.count("\n")
                assert lines <= 60, f"{path}: {node.name} has {lines} lines"


def test_importing_the_core_touches_no_device_and_no_heavy_library():
    program = (
        "import sys, diffusion, samplers\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()\n"
        "heavy = {'flax', 'optax', 'orbax', 'grain', 'tyro', 'PIL', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
