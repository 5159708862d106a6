"""Score matching in its forms, and what the denoising loss is averaged over: weightings and times."""

from diffusion.score_matching.losses import (
    DenoisingTerms,
    ScoreModel,
    denoising_score_matching,
    denoising_terms,
    explicit_score_matching,
    finite_difference_score_matching,
    implicit_score_matching,
    sliced_score_matching,
    stable_target,
)
from diffusion.score_matching.times import (
    ImportanceTime,
    LogNormalSigma,
    LogUniformSigma,
    TimeDistribution,
    UniformTime,
)
from diffusion.score_matching.weightings import (
    EDMWeighting,
    LikelihoodWeighting,
    MinSNRWeighting,
    SNRWeighting,
    UniformWeighting,
    VelocityWeighting,
    VWeighting,
    Weighting,
)

__all__ = [
    "DenoisingTerms",
    "EDMWeighting",
    "ImportanceTime",
    "LikelihoodWeighting",
    "LogNormalSigma",
    "LogUniformSigma",
    "MinSNRWeighting",
    "SNRWeighting",
    "ScoreModel",
    "TimeDistribution",
    "UniformTime",
    "UniformWeighting",
    "VWeighting",
    "VelocityWeighting",
    "Weighting",
    "denoising_score_matching",
    "denoising_terms",
    "explicit_score_matching",
    "finite_difference_score_matching",
    "implicit_score_matching",
    "sliced_score_matching",
    "stable_target",
]
