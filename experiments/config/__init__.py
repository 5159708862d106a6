"""The configuration of a run: `tree` and its `nodes`, what cannot be trained (`checks`), and its `file`."""

from experiments.config.nodes import (
    Chain,
    Denoising,
    EMAConfig,
    FlowMap,
    Generator,
    ImportanceConfig,
    OptimizerConfig,
    SamplingConfig,
    TrainingConfig,
)
from experiments.config.told import MeasureConfig, TrackingConfig
from experiments.config.tree import Config
from experiments.data.config import DataConfig

__all__ = [
    "Chain",
    "Config",
    "DataConfig",
    "Denoising",
    "EMAConfig",
    "FlowMap",
    "Generator",
    "ImportanceConfig",
    "MeasureConfig",
    "OptimizerConfig",
    "SamplingConfig",
    "TrackingConfig",
    "TrainingConfig",
]
