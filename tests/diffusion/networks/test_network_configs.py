"""Configurations: refused in a sentence, readable by the command line, free of flax."""

import re
import subprocess
import sys

import pytest
import tyro

from diffusion.networks import DiTConfig, MLPConfig, UNetConfig


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (MLPConfig, {"hidden": 0}, "hidden is 0; give a positive number."),
        (MLPConfig, {"embedding": 7}, "embedding is 7; give a multiple of 2."),
        (UNetConfig, {"channels": 31}, "channels is 31; give a multiple of 2."),
        (UNetConfig, {"blocks": -1}, "blocks is -1; give a positive number."),
        (UNetConfig, {"multipliers": ()}, "multipliers is empty; give one positive integer for each level, "),
        (UNetConfig, {"multipliers": (1, 0)}, "multipliers is (1, 0); give a tuple of positive integers."),
        (UNetConfig, {"attention_resolutions": (-8,)}, "attention_resolutions is (-8,); give a tuple of positive"),
        (UNetConfig, {"dropout": 1.0}, "dropout is 1.0; give a probability from 0 up to, but not including, 1."),
        (DiTConfig, {"width": 30, "heads": 2}, "width is 30; give a multiple of 4."),
        (DiTConfig, {"width": 32, "heads": 3}, "width is 32; give a multiple of 3."),
        (DiTConfig, {"mlp_ratio": 0.0}, "mlp_ratio is 0.0; give a positive number."),
        (DiTConfig, {"dropout": float("nan")}, "dropout is nan; give a probability from 0 up"),
        (DiTConfig, {"registers": -1}, "registers is -1; give 0 for none, or a positive number."),
        (DiTConfig, {"bottleneck": -8}, "bottleneck is -8; give 0 for none, or a positive number."),
        (
            DiTConfig,
            {"width": 24, "heads": 4, "positions": "rotary"},
            "width is 24 with 4 heads; rotary positions turn heads of a multiple of 4 channels, so give a multiple of ",
        ),
        (DiTConfig, {"depth": 3, "class_tokens_from": 3}, "class_tokens_from is 3, and there are 3 blocks; give a sma"),
        (DiTConfig, {"width": 4, "mlp_ratio": 0.25, "mlp": "swiglu"}, "mlp_ratio is 0.25; give one that leaves"),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_its_remedy(config, fields, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        config(**fields)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", [MLPConfig, UNetConfig, DiTConfig])
def test_the_command_line_shows_every_field(config, capsys):
    assert tyro.cli(config, args=[]) == config()
    with pytest.raises(SystemExit) as status:
        tyro.cli(config, args=["--help"])
    assert status.value.code == 0
    shown = capsys.readouterr().out
    for field in config.__dataclass_fields__:
        assert f"--{field.replace('_', '-')}" in shown
    assert "float32 means the type" in shown


def test_tuples_are_read_from_the_command_line():
    args = ["--multipliers", "1", "2", "4", "--attention-resolutions", "16", "8"]
    assert tyro.cli(UNetConfig, args=args) == UNetConfig(multipliers=(1, 2, 4), attention_resolutions=(16, 8))


def test_configurations_need_no_flax_and_refuse_a_choice_that_there_is_not():
    """In a process of its own, without the type checker that would refuse the choices first."""
    program = """
import sys
import diffusion.networks as networks

def show(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except (ValueError, ImportError) as error:
        print(error)

show(networks.MLPConfig, activation="relu6")
show(networks.MLPConfig, conditioning="none")
show(networks.UNetConfig, resampling="fir")
show(networks.DiTConfig, compute_dtype="float16")
show(networks.DiTConfig, mlp="geglu")
show(networks.DiTConfig, norm="batch")
show(networks.DiTConfig, positions="learned")
show(networks.UNetConfig, multipliers=[1, 2])
assert "flax" not in sys.modules
sys.modules["flax"] = None
show(getattr, networks, "build")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [
        "activation is 'relu6'; choose one of silu, gelu, tanh, softplus.",
        "conditioning is 'none'; choose one of film, additive.",
        "resampling is 'fir'; choose one of pool, conv.",
        "compute_dtype is 'float16'; choose one of float32, bfloat16.",
        "mlp is 'geglu'; choose one of gelu, swiglu.",
        "norm is 'batch'; choose one of layer, rms.",
        "positions is 'learned'; choose one of fixed, rotary, both.",
        "multipliers is [1, 2]; give a tuple of positive integers.",
        "build needs flax; install scorefield[train].",
    ]
