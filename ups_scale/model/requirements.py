"""What a model asks of a family, and of what it is called with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from ups_scale.errors import DataError, RecipeError
from ups_scale.model.baselines import check_grid
from ups_scale.model.embed import MAX_AXES
from ups_scale.model.places import Places, describe
from ups_scale.physics.families import FamilySpec
from ups_scale.recipe.presets import BASELINES


def check_family(spec: FamilySpec, model: Mapping[str, Any]) -> None:
    """Raises a `RecipeError` if a model of the settings `model`, a recipe's section, can't take the family."""
    baseline = model["operator"] in BASELINES
    if baseline:
        check_grid(spec, model["operator"])
    if spec.geometry == "points":
        for end, taken in (("encoder", "grid"), ("decoder", "patch")):
            if model[end] == taken:
                raise RecipeError(
                    f"family {spec.name} is a point set, and model.{end} {taken!r} needs a grid: set model.{end} to "
                    '"auto" (points for point sets only) or "points" (for all families), or leave the family out of '
                    "data.manifest"
                )
    if not spec.dynamic:
        raise RecipeError(
            f"family {spec.name} has only static fields ({', '.join(spec.fields)}), so there is nothing to predict: "
            "leave it out of data.manifest"
        )
    if spec.dimensions > MAX_AXES:
        raise RecipeError(f"family {spec.name} has {spec.dimensions} axes, the model takes at most {MAX_AXES}")
    pairs = model["model_dim"] // model["num_heads"] // 2
    if pairs < spec.dimensions and not baseline:
        width, most = model["model_dim"], model["model_dim"] // (2 * spec.dimensions)
        fitting = max(heads for heads in range(1, most + 1) if heads == 1 or width % (4 * heads) == 0)
        raise RecipeError(
            f"family {spec.name} has {spec.dimensions} axes: heads of width {2 * pairs} (model.model_dim "
            f"{model['model_dim']} / model.num_heads {model['num_heads']}) rotate {pairs} pairs, and every axis needs "
            f"one; lower model.num_heads to {fitting}"
        )


def check_shapes(
    spec: FamilySpec,
    context_frames: int,
    context_btcx: Tensor,
    parameters_bp: Tensor,
    dt_bt: Tensor,
    horizon: int,
    mask_btcx: Tensor | None,
) -> None:
    """Raises a `DataError` if what a model of `context_frames` frames is called with does not fit the family."""
    for name, value in (("context_btcx", context_btcx), ("parameters_bp", parameters_bp), ("dt_bt", dt_bt)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = f"{value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise DataError(f"family {spec.name}: {name} is {kind}; expected a torch tensor of float32")
    expected = (len(spec.fields), *spec.grid)
    frames = context_btcx.shape[1] if context_btcx.ndim > 1 else 0
    if context_btcx.shape[0] == 0 or tuple(context_btcx.shape[2:]) != expected or not 1 <= frames <= context_frames:
        given = "1" if context_frames == 1 else f"1 to {context_frames}"
        raise DataError(
            f"family {spec.name}: context of shape {tuple(context_btcx.shape)}, expected (batch, frames, fields, grid) "
            f"= (B, {given}, {', '.join(map(str, expected))}), the fields being {', '.join(spec.fields)}"
            f"{', of which ' + ', '.join(spec.coordinates) + ' are the places' if spec.coordinates else ''}. Another "
            "resolution or number of points is a variant of the family (ups_scale.model.extend.extended)"
        )
    batch, times = len(context_btcx), frames + horizon - 1
    if tuple(parameters_bp.shape) != (batch, len(spec.parameters)):
        raise DataError(
            f"family {spec.name}: parameters_bp of shape {tuple(parameters_bp.shape)}, expected ({batch}, "
            f"{len(spec.parameters)}): {', '.join(spec.parameters) or 'it has none'} (NaN where not known)"
        )
    if dt_bt.ndim != 2 or len(dt_bt) != batch or dt_bt.shape[1] < times:
        raise DataError(
            f"family {spec.name}: dt_bt of shape {tuple(dt_bt.shape)}, expected ({batch}, {times}): a time from each "
            f"frame to the next, for {frames} given and {horizon} predicted frames"
        )
    if mask_btcx is not None and mask_btcx.shape != context_btcx.shape:
        raise DataError(
            f"family {spec.name}: mask_btcx of shape {tuple(mask_btcx.shape)}, expected that of the context, "
            f"{tuple(context_btcx.shape)}"
        )


def check_places(spec: FamilySpec, decoder: str, at: Places, batch: int) -> None:
    """Raises a `DataError` if a `decoder` ("patch" or "points") can't give the family's fields at `at`."""
    if decoder != "points":
        raise DataError(
            f"family {spec.name}: this model's patch decoder gives fields at the input's own points only; other places "
            'need a model of model.decoder "points"'
        )
    if isinstance(at, tuple):
        fits = len(at) == spec.dimensions and all(isinstance(size, int) and size > 0 for size in at)
    elif isinstance(at, Tensor):
        fits = at.ndim == 3 and at.is_floating_point() and tuple(at.shape[::2]) == (batch, spec.dimensions)
    else:
        fits = False
    if not fits:
        raise DataError(
            f"family {spec.name}: asked at {describe(at)}; expected a tuple of {spec.dimensions} sizes of a "
            f"grid, or a floating-point tensor of points of shape ({batch}, Q, {spec.dimensions})"
        )


def check_steps(horizon: int, steps: Collection[int] | None, reconstruct: bool, latent: bool) -> Collection[int]:
    """The frames that are wanted, in order; raises a `DataError` if there are no such frames."""
    if reconstruct and not latent:
        raise DataError('only a model of model.prediction "latent" reconstructs fields; this one predicts changes')
    if horizon < (0 if reconstruct else 1):
        raise DataError(f"horizon {horizon}: expected at least 1, or 0 to reconstruct only")
    if steps is None:
        return range(1, horizon + 1)
    if not all(1 <= step <= horizon for step in steps):  # none at all is a rollout that nothing is wanted of
        raise DataError(f"steps {list(steps)}: expected some of 1 to {horizon}, the horizon")
    return sorted(set(steps))
