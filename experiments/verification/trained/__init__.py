"""A trained model under the equations: `check` runs the checks, of which there is one file for each kind."""

from diffusion.moved import names_from

__getattr__ = names_from(__name__, ("experiments.verification.trained.check",))
