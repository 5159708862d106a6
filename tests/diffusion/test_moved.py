"""Old module names: importable, the very same module where there is one home, and no promise beyond that."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import diffusion
import experiments
from diffusion.moved import _Finder, names_from

ROOT = Path(__file__).resolve().parents[2]
TABLES = [finder.table for finder in sys.meta_path if isinstance(finder, _Finder)]
MOVED = {old: homes for table in (*TABLES, experiments._MOVED) for old, homes in table.items()}


def test_both_packages_forward_their_old_names():
    for package in (diffusion, experiments):
        assert any(old.startswith(package.__name__ + ".") for old in MOVED)


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_is_its_new_home(old):
    module, homes = importlib.import_module(old), [importlib.import_module(home) for home in MOVED[old]]
    if len(homes) == 1:
        assert module is homes[0]
    for home in reversed(homes):  # of a name in two of them the first counts
        own = [name for name, value in vars(home).items() if getattr(value, "__module__", None) == home.__name__]
        for name in own:
            first = next(getattr(other, name) for other in homes if hasattr(other, name))
            assert getattr(module, name) is first
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name  # noqa: B018


def test_names_that_moved_are_found_by_any_form_of_import():
    from diffusion.chains import EncoderChain as Old  # pyright: ignore[reportMissingImports]
    from experiments.solver import load_model as old_load_model  # pyright: ignore[reportMissingImports]

    from diffusion.ddpm.chains import EncoderChain
    from experiments.runs.load import load_model

    assert Old is EncoderChain
    assert old_load_model is load_model
    import diffusion.weightings as weightings  # pyright: ignore[reportMissingImports]

    assert weightings.SNRWeighting is importlib.import_module("diffusion.score_matching.weightings").SNRWeighting


def test_packages_that_are_named_as_modules_were_have_their_names():
    """No part of such a package may be named as one of these, or the part would be found in the place of the name."""
    for package, names in {
        "experiments.config": ("Config", "Chain", "Generator", "DataConfig"),
        "experiments.sampling": ("draw", "Drawn", "Model", "make_denoiser", "parse_seeds", "Throughput"),
        "experiments.verification.trained": ("check",),
        "diffusion.ddpm": ("elbo_terms", "elbo_estimate", "joint_kl", "log_ratio", "prior_kl"),
        "diffusion.score_matching": ("denoising_score_matching", "stable_target", "denoising_terms"),
    }.items():
        module = importlib.import_module(package)
        for name in names:
            getattr(module, name)  # imports its home, and with it the parts of the package
            assert callable(getattr(module, name)), f"{package}.{name}"


def test_a_name_that_never_was_is_not_found():
    for name in ("diffusion.no_such_module", "experiments.no_such_module", "diffusion.chains.no_such_module"):
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            importlib.import_module(name)
    with pytest.raises(ImportError, match="no_such_name"):
        from diffusion.chains import no_such_name  # noqa: F401 # pyright: ignore[reportMissingImports]
    with pytest.raises(AttributeError, match="module 'old' has no attribute 'no_such_name'"):
        names_from("old", ["diffusion.ddpm.chains", "diffusion.betas"])("no_such_name")
    assert names_from("old", ["diffusion.ddpm.chains", "diffusion.betas"])("Betas") is diffusion.Betas


def test_tables_load_nothing_until_an_old_name_is_asked_for():
    program = (
        "import sys, diffusion, experiments\n"
        "assert 'diffusion.ddpm.chains' not in sys.modules and 'experiments.runs.load' not in sys.modules\n"
        "import diffusion.chains\n"
        "assert sys.modules['diffusion.chains'] is sys.modules['diffusion.ddpm.chains'] is diffusion.chains\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
