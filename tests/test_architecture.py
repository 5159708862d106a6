"""Who may import whom: arrows between and within the packages never run back, nor in a circle; the core stays light."""

import ast
import functools
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = {"diffusion": 0, "samplers": 1, "experiments": 2, "scorefield": 3}
GROUND_FLOOR = {"__init__", "cli", "errors", "names", "files", "compilation", "streams", "progress", "memory"}
"""The files of `experiments/` that belong to none of its packages."""
FLOORS = (
    {"progress"},  # an error wipes its line
    {"errors"},
    {"names", "files", "compilation", "streams", "memory"},
    {"data"},
    {"config"},
    {"presets"},
    {"tracking"},
    {"training"},
    {"runs"},
    {"importing"},
    {"sampling"},
    {"exporting"},
    {"evaluation"},
    {"pictures"},
    {"verification"},
    {"interface"},
    {"commands"},
    {"cli"},
)
"""The packages of `experiments/` and the files of its ground floor, from the bottom up: each imports those below it."""
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


def module_name(path):
    """The dotted name of a file: its package's for an `__init__`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def modules():
    """Each module of the three packages, with the modules that it imports anywhere, types and functions included."""
    paths = {module_name(path): path for layer in LAYERS for path in files(layer)}
    graph = {}
    for name, path in paths.items():
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                # `from package import module` is an arrow to the module, `from module import name` to where it stands
                targets = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[name] |= {target if target in paths else node.module for target in targets}
            elif isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names}
        graph[name] = (graph[name] & paths.keys()) - {name}
    return graph


def floor(module):
    """The floor of a module of `experiments`."""
    return next(i for i, names in enumerate(FLOORS) if module.split(".")[1] in names)


def test_no_module_imports_itself_by_way_of_others():
    graphlib.TopologicalSorter(modules()).prepare()  # raises CycleError, which names the circle


def test_arrows_within_experiments_run_down():
    for module, targets in modules().items():
        for target in targets:
            if module.startswith("experiments.") and target.startswith("experiments."):
                same = module.split(".")[1] == target.split(".")[1]
                assert same or floor(target) < floor(module), f"{module} imports {target}"


def test_the_ground_floor_of_experiments_holds_what_is_named_and_no_more():
    assert {path.stem for path in (ROOT / "experiments").glob("*.py")} == GROUND_FLOOR


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
        assert "jax.pmap" not in text or path.name == "programs.py", path
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
