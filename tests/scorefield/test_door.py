"""`import scorefield`: quick, complete, and outspoken where something stands in its way."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import scorefield
from scorefield.shadows import PACKAGES, shadowed

ROOT = Path(__file__).parents[2]

jax.devices()  # XLA has read its flags, and the door leaves those of this process alone


def python(*arguments, cwd):
    """(status, stdout, stderr) of a fresh Python whose path begins with `cwd`, and goes on to the packages."""
    program = f"import sys; sys.path[:0] = [{str(cwd)!r}]; sys.path.insert(1, {str(ROOT)!r})\n"
    command = [sys.executable, "-I", "-c", program + "\n".join(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


def stub():
    return ast.parse((ROOT / "scorefield" / "__init__.pyi").read_text()).body


def test_every_name_is_its_homes_and_is_listed():
    listed = {}
    for node in stub():
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.name == alias.asname  # what a type checker takes for a name that is handed on
            assert alias.name not in listed
            listed[alias.name] = node.module
    assert listed.keys() <= set(dir(scorefield))
    for name, module in listed.items():
        assert getattr(scorefield, name) is getattr(importlib.import_module(module), name), name
    scope = {}
    exec("from scorefield import *", scope)
    assert listed.keys() <= scope.keys()
    for package in ("diffusion", "samplers", "experiments.config"):  # the faces of the packages, whole
        assert set(importlib.import_module(package).__all__) <= listed.keys(), package
    with pytest.raises(AttributeError, match="module 'scorefield' has no attribute 'tarin'"):
        getattr(scorefield, "tarin")  # noqa: B009


def test_a_mistyped_name_is_met_with_the_nearest_one(tmp_path):
    status, _, err = python("import scorefield", "scorefield.tarining", cwd=tmp_path)
    assert status == 1
    assert err.splitlines()[-1].endswith("has no attribute 'tarining'. Did you mean: 'training'?")


def test_the_import_is_light_and_a_name_touches_no_device(tmp_path):
    status, out, err = python(
        "import scorefield",
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules",
        "scorefield.Config, scorefield.load, scorefield.training, scorefield.Heun, scorefield.log_likelihood",
        "from jax._src import xla_bridge",
        "assert not xla_bridge.backends_are_initialized()",
        "import os",
        "print(os.environ.get('XLA_FLAGS'))",
        cwd=tmp_path,
    )
    assert status == 0, err
    assert "--xla_cpu_experimental_ynn_fusion_type=" in out.split()  # as the command has it


@pytest.mark.parametrize("place", ["diffusion.py", "samplers/__init__.py", "experiments/__init__.py"])
def test_what_shadows_a_package_is_named_in_one_sentence(tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("")
    status, _, err = python("import scorefield", cwd=tmp_path)
    name = place.split("/")[0]
    package = name.removesuffix(".py")
    assert status == 1
    assert err.splitlines()[-1] == (
        f"ImportError: {tmp_path / name} shadows scorefield's own package {package}, for Python finds it first; "
        "rename it, or start Python where it is not on the path."
    )


def test_the_command_as_a_module_says_so_in_a_line(tmp_path):
    (tmp_path / "diffusion.py").write_text("")
    command = [sys.executable, "-m", "scorefield", "presets"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"scorefield: error: {tmp_path / 'diffusion.py'} shadows")
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_no_package_shadows_nothing(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "first.py").write_text("")
    assert python("import scorefield; scorefield.Config", cwd=tmp_path)[0] == 0


def test_a_package_that_was_installed_over_ours_is_named(tmp_path, monkeypatch):
    assert shadowed(ROOT) is None
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text((ROOT / name / "__init__.py").read_text())
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert shadowed(tmp_path) is None
    (tmp_path / "samplers" / "__init__.py").write_text('"""Someone else\'s."""')
    assert shadowed(tmp_path) == (
        f"{tmp_path / 'samplers' / '__init__.py'} is another distribution's: it was installed over scorefield's own "
        "package samplers; uninstall that one, then reinstall scorefield."
    )
    (tmp_path / "diffusion" / "__init__.py").unlink()
    (tmp_path / "diffusion").rmdir()
    assert shadowed(ROOT / "nowhere") is not None


def test_the_package_is_the_command_too():
    command = [sys.executable, "-m", "scorefield", "presets"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "digits-ddpm" in done.stdout
    done = subprocess.run([*command[:-1], "smaple"], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr.splitlines()[0][:18]) == (2, "scorefield: error:")


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.delitem(vars(scorefield), "presets", raising=False)
    monkeypatch.delitem(sys.modules, "experiments.presets", raising=False)

    def without(name, *arguments):
        raise ModuleNotFoundError("no flax", name="flax.nnx")

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ImportError, match=r"scorefield\.presets needs the package flax; install it by: pip install"):
        _ = scorefield.presets


def test_a_run_is_not_handed_out_where_the_libraries_that_load_it_are_missing(monkeypatch):
    """What loads it is imported late, so that a mistyped command is answered at once; the door asks for it early."""
    monkeypatch.delitem(vars(scorefield), "load", raising=False)
    real = importlib.import_module

    def without_orbax(name, *arguments):
        if name == "experiments.training.checkpoint":
            raise ModuleNotFoundError("no orbax", name="orbax.checkpoint")
        return real(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", without_orbax)
    with pytest.raises(ImportError, match=r"scorefield\.load needs the package orbax; install it by: pip install"):
        _ = scorefield.load
