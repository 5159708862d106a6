"""Everything with a file, a process or a person at its end: training, sampling, evaluation and the command line."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec

# Modules that have moved, by their old names; several homes where a module was divided.
_MOVED = {
    "experiments.anomaly_figure": ("experiments.pictures.anomalies",),
    "experiments.config_checks": ("experiments.config.checks",),
    "experiments.config_file": ("experiments.config.file",),
    "experiments.config_nodes": ("experiments.config.nodes",),
    "experiments.elbo": ("experiments.evaluation.bits_per_dim", "experiments.sampling.variance"),
    "experiments.energies": ("experiments.runs.energy", "experiments.evaluation.strangeness"),
    "experiments.energy_sampling": ("experiments.sampling.energy",),
    "experiments.fitted_grids": ("experiments.runs.fitted_grids",),
    "experiments.guided": ("experiments.sampling.guidance",),
    "experiments.images": ("experiments.pictures.files", "experiments.files"),
    "experiments.options": ("experiments.commands.options", "experiments.names"),
    "experiments.plane": ("experiments.evaluation.plane",),
    "experiments.plane.density": ("experiments.evaluation.plane.density",),
    "experiments.plane.evaluation": ("experiments.evaluation.plane.measures",),
    "experiments.plane.figure": ("experiments.pictures.plane",),
    "experiments.solver": (
        "experiments.sampling.solver",
        "experiments.commands.arguments",
        "experiments.runs.load",
        "experiments.runs.provenance",
        "experiments.errors",
    ),
    "experiments.verification.html": ("experiments.verification.report.html",),
    "experiments.verification.page": ("experiments.verification.report.page",),
    "experiments.verification.plots": ("experiments.verification.report.plots",),
    "experiments.verification.trained_checks": ("experiments.verification.trained",),
    **{
        f"experiments.verification.trained_checks.{name}": (f"experiments.verification.trained.{name}",)
        for name in (
            *("denoising", "fields", "finding", "likelihood", "memory", "passes", "points", "sampling"),
            *("subject", "words"),
        )
    },
}


class _Finder:
    """Finds the old names. What that takes is imported with the first of them, for it imports jax."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in _MOVED:
            return None
        from diffusion.moved import spec

        return spec(name, _MOVED[name])


# Before the others: they would find the files of a package that is known by an old name, and load them twice.
sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
