"""Pictures completed, restored, drawn anew and led into each other by a run in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from experiments.data.source import Events, Pixels
from experiments.errors import UsageError
from experiments.interface import flow
from experiments.interface.arguments import Labels, checked_guidance, checked_seeds, paired, whole
from experiments.interface.chosen import SamplerLike
from experiments.memory import remedied
from experiments.runs.classes import class_numbers
from experiments.sampling.editing import Completion, Method, Redrawing, Restoration, Task
from experiments.sampling.guidance import Guidance
from experiments.sampling.interpolation import Interpolated, interpolate
from experiments.sampling.labels import require_no_class

if TYPE_CHECKING:
    from experiments.runs.model import Model


class Edits:
    """What a run makes of pictures; image i has the i-th of `seeds`, and one image alone an answer for each seed."""

    model: Model

    @remedied("give a smaller batch, or fewer seeds")
    def inpaint(
        self,
        images: Events,
        mask: Bool[np.ndarray, "..."],
        *,
        seeds: Sequence[int] | None = None,
        sampler: SamplerLike = None,
        steps: int | None = None,
        grid: str | None = None,
        limits: Mapping[str, float] | None = None,
        method: Method = "repaint",
        resamplings: int = 10,
        jump: int = 1,
        label: Labels | None = None,
        guidance: float | Guidance | None = None,
        batch: int = 64,
    ) -> Events:
        """`images` (n, *event) with what the mask leaves out drawn anew; the rest is as it was.

        `mask` is True where pixels are known: (height, width), or of the shape of an image, or of all images. Image i
        has the i-th of `seeds`, 0 to n − 1 unless given; one image alone has as many completions as there are seeds. By
        the method "repaint" every stretch of `jump` steps is sampled `resamplings` times (Lugmayr et al. 2022,
        arXiv:2201.09865); "replacement" does so once, and "pigdm" leads the denoiser by the known part
        (`pseudoinverse_guidance`). All else is as in `sample`, but that no class is told unless `label` is given.
        Raises UsageError as `sample` does, and for a mask, seeds or a method that do not fit.
        """
        if method not in ("repaint", "replacement", "pigdm"):
            raise UsageError(f"method is {method!r}; choose repaint, replacement or pigdm.")
        known, seeds = flow.completions(self.model, images, seeds)
        seen = flow.full_mask(self.model, mask, known)
        task = Completion(known, seen, method, resamplings=resamplings, jump=jump)
        solve = {"sampler": sampler, "steps": steps, "grid": grid, "limits": limits}
        return self._answers(task, seeds, label, guidance, batch, solve)

    @remedied("give a smaller batch, or fewer seeds")
    def restore(
        self,
        observed: Float[np.ndarray, "n *measured"],
        operator: Any,
        *,
        noise_std: float = 0.0,
        seeds: Sequence[int] | None = None,
        sampler: SamplerLike = None,
        steps: int | None = None,
        grid: str | None = None,
        limits: Mapping[str, float] | None = None,
        label: Labels | None = None,
        guidance: float | Guidance | None = None,
        batch: int = 64,
    ) -> Events:
        """Images of which `operator` has measured `observed` (n, *measured), up to noise of `noise_std`, by ΠGDM.

        Both are in the units of the network, u/127.5 − 1 of pixels. The operator is what a `Measurement` takes: a
        matrix (m, d), one of `gaussian_blur`, `box_downsampling` and their like, or a function. All else is as in
        `inpaint`. Raises UsageError as `sample` does, and for what does not fit.
        """
        observed, told = paired("measurements", np.asarray(observed, np.float32), seeds)
        task = Restoration(operator, observed, noise_std)
        solve = {"sampler": sampler, "steps": steps, "grid": grid, "limits": limits}
        return self._answers(task, told, label, guidance, batch, solve)

    @remedied("give a smaller batch, or fewer seeds")
    def redraw(
        self,
        images: Events,
        strength: float = 0.6,
        *,
        seeds: Sequence[int] | None = None,
        sampler: SamplerLike = None,
        steps: int | None = None,
        grid: str | None = None,
        limits: Mapping[str, float] | None = None,
        label: Labels | None = None,
        guidance: float | Guidance | None = None,
        batch: int = 64,
    ) -> Events:
        """Images like `images` (n, *event): taken the part `strength` of the way to noise, and led back (SDEdit).

        (Meng et al. 2022, arXiv:2108.01073; `noised_start`.) The larger, the less stays of them. All else is as in
        `inpaint`. Raises UsageError as `sample` does, and for a strength outside (0, 1].
        """
        known, seeds = flow.completions(self.model, images, seeds)
        flow.full_mask(self.model, np.ones((1,), bool), known)
        solve = {"sampler": sampler, "steps": steps, "grid": grid, "limits": limits}
        return self._answers(Redrawing(known, strength), seeds, label, guidance, batch, solve)

    @remedied("give a smaller batch, or fewer frames")
    def interpolate(
        self,
        ends: Pixels | tuple[int, int],
        frames: int = 9,
        *,
        label: int | str | None = None,
        guidance: float | Guidance | None = None,
        linear: bool = False,
        tolerance: float = 1e-4,
        chain_steps: int = 250,
        batch: int = 16,
    ) -> Interpolated:
        """`frames` images from the first of `ends` to the second, two images (2, ...) or a tuple of two seeds.

        The latents of the probability flow turn from one to the other on a great circle, or go straight on if `linear`;
        see `experiments.sampling.interpolation`. Raises UsageError for a run without a flow.
        """
        if not isinstance(ends, tuple):
            ends = np.asarray(ends)
            if ends.dtype not in (np.uint8, np.uint16) or ends.shape != (2, *self.model.event_shape):
                shape = (2, *self.model.event_shape)
                raise UsageError(f"ends are {ends.dtype} {ends.shape}; give two images, uint8 {shape}, or two seeds.")
        elif len(checked_seeds(ends)) != 2:
            raise UsageError(f"ends has {len(ends)} seeds; give two.")
        if label is None:
            require_no_class(self.model, "label")
        return interpolate(
            self.model,
            ends,
            whole("frames", frames),
            label=None if label is None else int(class_numbers(self.model, label, "label")),
            guidance=checked_guidance(guidance),
            linear=linear,
            tolerance=tolerance,
            chain_steps=chain_steps,
            batch=whole("batch", batch),
        )

    def _answers(
        self,
        task: Task,
        seeds: Sequence[int],
        label: Labels | None,
        guidance: float | Guidance | None,
        batch: int,
        solve: Mapping[str, Any],
    ) -> Events:
        """The answers to a task whose picture i has the i-th seed, by the sampler that `solve` names."""
        raise NotImplementedError
