"""What `scorefield edit` asks of a model: from files and flags to a task, and to the pictures of what was given."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from diffusion.pytree import short_repr
from experiments.commands.edit_options import EditArguments
from experiments.data.given import pictures_of, read_mask, read_picture, sha256_of, size_of
from experiments.data.scaling import to_model, to_pixels
from experiments.data.source import Pixels
from experiments.errors import UsageError, reason
from experiments.runs.model import Model
from experiments.sampling.editing import Completion, Redrawing, Restoration, Task, half_range
from samplers.operators import Separable, box_downsampling, gaussian_blur

ROUNDING = 1 / math.sqrt(12)
"""The standard deviation of rounding to whole levels."""
_CHECKS = 0.25  # what stands for pixels that are not known is checkered, brighter and darker than grey by this


class Asked(NamedTuple):
    """A task, and all that is told of it."""

    task: Task
    files: list[Path]
    """The picture that each row of the task is of; the operator's file where there are none."""
    given: list[Pixels]
    """The tiles of a strip that come before the answers."""
    noise: float | None
    """The standard deviation of the measurement, in levels; None where there is no measurement."""
    truth: Float32[np.ndarray, "n height width channels"] | None
    """The whole pictures, where measurements of them were simulated."""
    told: dict[str, Any]
    """All that determines the task, as JSON values."""

    __repr__ = short_repr


def asked(arguments: EditArguments, model: Model, shape: tuple[int, int, int]) -> Asked:
    """The task of these flags for pictures of this shape.

    Raises UsageError for flags that do not go together and for pictures that do not fit, DataError for what is no
    picture.
    """
    if arguments.mask is not None:
        return _completion(arguments, arguments.mask, model, shape)
    if arguments.strength is not None:
        return _redrawing(arguments, arguments.strength, model, shape)
    if arguments.operator is not None:
        return _by_matrix(arguments, arguments.operator, model, shape)
    return _restoration(arguments, model, shape)


def _completion(arguments: EditArguments, mask: Path, model: Model, shape: tuple[int, int, int]) -> Asked:
    files, images = _pictures(arguments, model, shape)
    data = model.config.data
    sizes = {size_of(path, data) for path in files}
    if len(sizes) > 1:
        raise UsageError("--mask is one for all pictures, and these have several sizes; give those of each by itself.")
    white = read_mask(mask, sizes.pop(), shape[:2], data, resize=arguments.resize)
    known = np.broadcast_to(~white[None, :, :, None], images.shape)
    method, noise = arguments.method or "repaint", arguments.noise or 0.0
    if noise and method != "pigdm":
        raise UsageError(
            f"--noise goes with --method pigdm, and not with {method}, for which what is known is certain."
        )
    task = Completion(images, known, method, noise / half_range(model), arguments.resamplings, arguments.jump)
    knobs = {"resamplings": arguments.resamplings, "jump": arguments.jump} if method == "repaint" else {}
    checks = _CHECKS * (2 * (np.indices(shape[:2]).sum(axis=0) % 2) - 1)[:, :, None]
    shown = to_pixels(np.where(known, images, checks), model.bits)
    told = {"edit": "mask", "mask_sha256": sha256_of(mask), "method": method, **knobs}
    return Asked(task, files, [shown], noise, None, _told(arguments, files, noise, told))


def _redrawing(arguments: EditArguments, strength: float, model: Model, shape: tuple[int, int, int]) -> Asked:
    if not 0 < strength <= 1:
        raise UsageError(f"--strength is {strength:g}; give a part of the way to noise above 0 up to 1, such as 0.6.")
    files, images = _pictures(arguments, model, shape)
    told = _told(arguments, files, None, {"edit": "strength", "strength": strength})
    return Asked(Redrawing(images, strength), files, [to_pixels(images, model.bits)], None, None, told)


def _restoration(arguments: EditArguments, model: Model, shape: tuple[int, int, int]) -> Asked:
    """A smaller or a blurred picture."""
    height, width, _ = shape
    factor, std = arguments.super_resolve, arguments.deblur
    try:
        operator = gaussian_blur(height, width, std or 0.0) if factor is None else _smaller(height, width, factor)
    except ValueError:
        raise UsageError(f"--deblur is {std}; give the width of the blur in pixels, above 0, such as 1.5.") from None
    noise = ROUNDING if arguments.noise is None else arguments.noise
    if arguments.simulate:
        files, truth = _pictures(arguments, model, shape)
        y = _simulated(operator, truth, (arguments.noise or 0.0) / half_range(model))
        y = to_model(to_pixels(y, model.bits))
    else:
        files, y = _pictures(arguments, model, (height // (factor or 1), width // (factor or 1), shape[2]))
        truth = None
    shown = to_pixels(y, model.bits).repeat(factor or 1, axis=1).repeat(factor or 1, axis=2)
    what = {"edit": "deblur", "width": std} if factor is None else {"edit": "super-resolve", "factor": factor}
    told = _told(arguments, files, noise, {**what, "method": "pigdm"})
    given = [shown] if truth is None else [to_pixels(truth, model.bits), shown]
    return Asked(Restoration(operator, y, noise / half_range(model)), files, given, noise, truth, told)


def _smaller(height: int, width: int, factor: int) -> Separable:
    if factor < 2 or height % factor or width % factor:
        raise UsageError(
            f"--super-resolve is {factor}, and the run's images have {height}×{width} pixels; give a factor from 2 on "
            "that divides both sides."
        )
    return box_downsampling(height, width, factor)


def _by_matrix(arguments: EditArguments, place: Path, model: Model, shape: tuple[int, int, int]) -> Asked:
    """Any linear operator, on pixels in levels: y = A u + noise, u flattened row by row, channels last."""
    arrays, half, size = _arrays(place), half_range(model), math.prod(shape)
    if "matrix" not in arrays:
        raise UsageError(f"{place} holds {', '.join(arrays) or 'nothing'}; save the operator under the name matrix.")
    matrix = arrays["matrix"]
    if matrix.ndim != 2 or matrix.shape[1] != size:
        raise UsageError(
            f"matrix in {place} is {matrix.dtype} {matrix.shape}, and the run's images have "
            f"{'×'.join(map(str, shape))} = {size} numbers; give numbers (m, {size})."
        )
    for name in arrays:
        if name not in ("matrix", "observed", "noise_std"):
            raise UsageError(f"{place} holds {name}, which is not known; name it matrix, observed or noise_std.")
    for name in ("matrix", "observed"):
        if name in arrays and not np.isfinite(arrays[name]).all():
            raise UsageError(f"{name} in {place} holds numbers that are not finite; save it without them.")
    noise = arguments.noise
    if noise is None:
        told = np.asarray(arrays.get("noise_std", ROUNDING))
        if told.size != 1 or not 0 <= told.item() < math.inf:
            given = f"is {told.item():g}" if told.size == 1 else f"has shape {told.shape}"
            raise UsageError(
                f"noise_std in {place} {given}; save one number of levels, 0 or more, or give --noise in its place."
            )
        noise = float(told.item())
    flat = matrix.sum(axis=1)  # A of a picture that is 1 everywhere: u = half (x + 1)
    if "observed" in arrays and not arguments.image and not arguments.simulate:
        observed = np.atleast_2d(arrays["observed"])
        if observed.ndim != 2 or observed.shape[1] != len(matrix):
            raise UsageError(
                f"observed in {place} has shape {arrays['observed'].shape}, and the matrix {len(matrix)} rows; give "
                f"numbers ({len(matrix)},), or one row for each of several measurements."
            )
        y, truth, files, given = observed / half - flat, None, [place] * len(observed), []
    elif arguments.simulate and arguments.image:
        files, truth = _pictures(arguments, model, shape)
        y = _simulated(lambda x: x.reshape(len(x), -1) @ matrix.T, truth, noise / half)
        given = [to_pixels(truth, model.bits)]
    else:
        raise UsageError(
            f"--operator needs what was measured: save it in {place.name} as observed (m,), or give a whole picture by "
            "--image, to be measured by --simulate."
        )
    told = {"edit": "operator", "operator_sha256": sha256_of(place), "method": "pigdm"}
    told = _told(arguments, files if given else [], noise, told)
    task = Restoration(np.asarray(matrix, np.float32), np.asarray(y, np.float32), noise / half)
    return Asked(task, files, given, noise, truth, told)


def _arrays(place: Path) -> dict[str, np.ndarray]:
    """The arrays of numbers in an npz file. Raises UsageError for what is none."""
    try:
        with np.load(place, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if file[name].dtype.kind in "biuf"}
    except OSError as error:
        raise UsageError(f"{place} cannot be read ({reason(error)}); give a file that np.savez has written.") from None
    except Exception:  # a zip of anything, an npy file, nothing at all
        raise UsageError(f"{place} is no npz file of numbers; save one by np.savez.") from None


def _pictures(
    arguments: EditArguments, model: Model, shape: tuple[int, int, int]
) -> tuple[list[Path], Float32[np.ndarray, "n height width channels"]]:
    """(The files, the pictures in the units of the network)."""
    data = dataclasses.replace(model.config.data, crop=arguments.crop)
    files = pictures_of(arguments.image, data.rules)
    if not files:
        raise UsageError("--image is missing; give a picture, several, or a folder of pictures.")
    parts = [read_picture(path, shape[:2], shape[2], data, resize=arguments.resize) for path in files]
    return files, to_model(np.concatenate(parts))


def _simulated(operator: Callable[[Any], Any], truth: np.ndarray, std: float) -> np.ndarray:
    """A x_0 + std n, n from the seed 0."""
    y = np.asarray(operator(jnp.asarray(truth)), np.float32)
    return (y + std * np.random.default_rng(0).standard_normal(y.shape)).astype(np.float32)


def _told(arguments: EditArguments, files: list[Path], noise: float | None, what: dict[str, Any]) -> dict[str, Any]:
    told = {**what, "image_sha256": [sha256_of(path) for path in files]}
    told |= {} if noise is None else {"noise_std": noise}
    told |= {"resized": arguments.crop} if arguments.resize else {}
    return told | ({"simulated": True} if arguments.simulate else {})
