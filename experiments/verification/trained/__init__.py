"""A trained model under the equations: `check` runs the checks, which have one file for each kind."""

from diffusion.moved import names_from

__getattr__ = names_from(__name__, ("experiments.verification.trained.checks",))
