"""A `UNet2DModel` of diffusers as a network of ours: its configuration, and its arrays by name.

network = unet2d_network(json.load(open("unet/config.json")))
params = to_params(wanted(network), arrays)
arrays = to_arrays(network, params)          the inverse, in PyTorch's layout
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from diffusion.networks import Network, Params
from diffusion.networks.unet2d_config import UNet2DConfig
from experiments.errors import CheckpointError, did_you_mean
from experiments.importing.arrays import Wanted, wanted_arrays

OUR_OWN = frozenset(("time_factor", "time_offset", "time_is_log", "remat", "compute_dtype"))
"""Fields of `UNet2DConfig` that diffusers does not have."""
OF_THE_DATA = {"sample_size": None, "in_channels": 3, "out_channels": 3}
"""What a configuration says of the images, with diffusers' defaults."""
NONE_MEANS = {"downsample_type": "conv", "upsample_type": "conv", "dropout": 0.0}
"""What diffusers takes null for, where the field has no null here."""
LEAVES = {"scale": "weight", "embedding": "weight"}
"""Our names of a layer's arrays, and PyTorch's where it has others."""
OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
"""Names of attention's projections, and those before diffusers 0.13, which published files still have."""


def unet2d_network(
    config: Mapping[str, Any],
    *,
    image_size: tuple[int, int] | None = None,
    num_classes: int | None = None,
    time: Mapping[str, Any] | None = None,
) -> Network:
    """The network that a `UNet2DModel`'s config.json describes.

    `image_size` is (height, width), that of the file unless given. `num_classes` is the number of rows of its table of
    classes unless given; one less makes the last row that of "no label". `time` are the fields of `UNet2DConfig` that
    say what the network is told of c_noise, as `ImportedSchedule.time` has them; without, c_noise itself.

    Raises CheckpointError for a key, a value or a block that is not known here, by its name, and for images or classes
    that the network cannot have.
    """
    made = config.get("_class_name", "UNet2DModel")
    if made != "UNet2DModel":
        raise CheckpointError(
            f"config.json is of a {made}, which cannot be imported; give a folder with a UNet2DModel."
        )
    given = {name: value for name, value in config.items() if not name.startswith("_")}
    data = {name: given.pop(name, default) for name, default in OF_THE_DATA.items()}
    fields = {field.name: field for field in dataclasses.fields(UNet2DConfig) if field.name not in OUR_OWN}
    for name in given:
        if name not in fields:
            raise CheckpointError(
                f"config.json has {name}, which no UNet2DModel has here{did_you_mean(name, fields)}; take it out if it "
                "changes nothing."
            )
    values = {name: _value(name, value, fields[name].default) for name, value in given.items()}
    try:
        architecture = UNet2DConfig(**values, **(time or {}))
        height, width = _image_size(data["sample_size"] if image_size is None else image_size)
        channels, outputs = _channels(data["in_channels"], data["out_channels"])
        if num_classes and architecture.class_embed_type is None and architecture.num_class_embeds is None:
            raise CheckpointError(f"--classes is {num_classes}, and this network takes no class; leave it out.")
        if num_classes is None:
            table = architecture.class_embed_type is None
            num_classes = (architecture.num_class_embeds or 0) if table else 0
        if architecture.class_embed_type == "timestep" and not num_classes:
            raise CheckpointError(
                "config.json: class_embed_type is timestep, which does not say how many classes there are; give "
                "--classes."
            )
        return Network(architecture, (height, width, channels), num_classes, outputs)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"config.json: {error}") from error


def wanted(network: Network, present: Collection[str] = ()) -> tuple[Wanted, ...]:
    """The arrays that are the network's parameters, by the names that diffusers gives them.

    Where `present` has an array by its old name and not by its new one, it is wanted by the old.
    """
    given = wanted_arrays(network.init, lambda path: ".".join((*path[:-1], LEAVES.get(path[-1], path[-1]))))
    return tuple(
        dataclasses.replace(one, name=old)
        if one.name not in present and (old := _old_name(one.name)) in present
        else one
        for one in given
    )


def to_params(wanted: Iterable[Wanted], arrays: Mapping[str, Any]) -> Params:
    """The parameters from arrays by these names, which are there and have these shapes, in their own types."""
    params: Params = {}
    for one in wanted:
        place = params
        for key in one.path[:-1]:
            place = place.setdefault(key, {})
        place[one.path[-1]] = one.of(np.asarray(arrays[one.name]))
    return params


def to_arrays(network: Network, params: Params) -> dict[str, np.ndarray]:
    """The parameters as arrays by diffusers' names, contiguous, in PyTorch's layout: the inverse of `to_params`."""
    arrays = {}
    for one in wanted(network):
        value: Any = params
        for key in one.path:
            value = value[key]
        arrays[one.name] = np.ascontiguousarray(np.asarray(value).transpose(np.argsort(one.axes)))
    return arrays


def _old_name(name: str) -> str:
    """The name that an array of attention has in old files."""
    place = re.fullmatch(r"(.*\.attentions\.\d+\.)(to_q|to_k|to_v|to_out\.0)(\.\w+)", name)
    return name if place is None else place[1] + OLD_ATTENTION[place[2]] + place[3]


def _value(name: str, value: Any, default: Any) -> Any:
    """A value of config.json as the field `name` has it, whose default tells its type."""
    if value is None and name in NONE_MEANS:
        return NONE_MEANS[name]
    if isinstance(default, tuple):
        if isinstance(value, (list, tuple)):
            return tuple(_block(item) if isinstance(item, str) else item for item in value)
        wanted = "a list"
    elif isinstance(default, bool):
        if isinstance(value, bool):
            return value
        wanted = "true or false"
    elif isinstance(default, (int, float)) and name != "attention_head_dim":
        whole = isinstance(default, int)
        if isinstance(value, int if whole else (int, float)) and not isinstance(value, bool):
            return value if whole else float(value)
        wanted = "a whole number" if whole else "a number"
    elif isinstance(default, str) and name != "mid_block_type":
        if isinstance(value, str):
            return value
        wanted = "a word"
    else:
        texts = ("mid_block_type", "class_embed_type")
        if value is None or (isinstance(value, str if name in texts else int) and not isinstance(value, bool)):
            return value
        wanted = f"null or {'a word' if name in texts else 'a whole number'}"
    raise CheckpointError(f"config.json has {name} {value!r}; it is {wanted}.")


def _block(name: str) -> str:
    """A block's name of today: the first versions of diffusers put UNetRes before it."""
    return name.removeprefix("UNetRes")


def _image_size(size: Any) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size or ())
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"sample_size is {size!r}; a number of pixels is wanted, such as 32, or a height and a width.")
    return sides


def _channels(c_in: Any, c_out: Any) -> tuple[int, int]:
    """(channels of an image, answers of the network for each)."""
    if not (isinstance(c_in, int) and isinstance(c_out, int) and c_in > 0 and c_out in (c_in, 2 * c_in)):
        raise ValueError(
            f"in_channels is {c_in} and out_channels is {c_out}; a denoiser's are equal, or twice as many where it "
            "learns a variance."
        )
    return c_in, c_out // c_in
