"""Configurations of `UNet2DModel`, drawn over its options, that both sides can build."""

import numpy as np

DOWN = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")
UP = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")
SKIP_DOWN = ("SkipDownBlock2D", "AttnSkipDownBlock2D")
SKIP_UP = ("SkipUpBlock2D", "AttnSkipUpBlock2D")
OPTIONS = {
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "time_embedding_type": ("positional", "fourier", "learned"),
    "class_embed_type": (None, "timestep", "identity"),
    "act_fn": ("silu", "swish", "mish", "gelu", "relu"),
    "downsample_padding": (0, 1),
    "downsample_type": ("conv", "resnet", None),
    "upsample_type": ("conv", "resnet", None),
    "attention_head_dim": (None, 3, 4, 8),
    "flip_sin_to_cos": (False, True),
    "freq_shift": (0, 1),
    "center_input_sample": (False, True),
    "mid_block_scale_factor": (1, 1.5),
    "add_attention": (True, True, False),
    "mid_block_type": ("UNetMidBlock2D", "UNetMidBlock2D", None),
    "norm_eps": (1e-6, 1e-5, 1e-2),
    "attn_norm_num_groups": (None, None, 2),
    "layers_per_block": (1, 2),
    "dropout": (0.0, 0.1),
    "time_embedding_dim": (None, 12),
}
COUNT = 26


def configuration(number):
    """The configuration of this number: each option's values come in turn, in an order drawn for it."""
    chosen = {}
    for place, (name, values) in enumerate(OPTIONS.items()):
        order = np.random.default_rng([place, number // len(values)]).permutation(len(values))
        chosen[name] = values[order[number % len(values)]]
    rng = np.random.default_rng([1000, number])
    levels, skips = 2 + number % 2, number % 4
    down, up = ([str(rng.choice(kinds)) for _ in range(levels)] for kinds in (DOWN, UP))
    if skips == 1:  # the image beside the features is halved from the first level on, and doubled to the last
        down = [str(rng.choice(SKIP_DOWN)) for _ in range(levels)]
    if skips in (1, 3):
        up = [*up[:1], *(str(rng.choice(SKIP_UP)) for _ in range(levels - 1))]
    plain = skips in (0, 2)
    widths = [(8, 16, 12), (12, 8, 8)][number % 2] if plain else (32, 64, 32)
    channels = 3 if not plain else int(rng.integers(1, 4))
    table = chosen["class_embed_type"] is None and number % 2
    return {
        **chosen,
        "block_out_channels": widths[:levels],
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        "norm_num_groups": int(rng.choice((2, 4))),
        "in_channels": channels,
        "out_channels": channels * (2 if number % 4 == 0 else 1),
        "sample_size": (8, 12) if number % 3 == 0 else 8,
        "num_class_embeds": 5 if table else None,
        "num_train_timesteps": 1000 if chosen["time_embedding_type"] == "learned" else None,
    }
