"""Every encoder, operator, decoder and kind of prediction, in every combination that recipes allow."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from small_models import BOX, FORCED, LINE, POINTS, STEADY, inputs, make

GRIDS = (LINE, STEADY, FORCED, BOX)
OPERATORS = {
    "stacked": {"operator": "stacked"},
    "stacked separated": {"operator": "stacked", "channel_separated": True, "accept_stacked_separated": True},
    "u_shaped": {"operator": "u_shaped", "depth": 3},
    "u_shaped separated": {"operator": "u_shaped", "depth": 3, "channel_separated": True},
}
ENDS = (("grid", "patch"), ("grid", "points"), ("points", "patch"), ("points", "points"), ("auto", "auto"))
COMBINATIONS = [
    {"encoder": encoder, "decoder": decoder, "prediction": prediction, **OPERATORS[operator]}
    for (encoder, decoder), operator, prediction in itertools.product(ENDS, OPERATORS, ("field", "latent"))
]
# Branches that gates of AdaLN-zero multiply, and the conditions, which reach the fields through it alone.
BEHIND_A_GATE = r"attention|mlp|^conditioner"


def families(settings: dict[str, Any]) -> tuple:
    takes_points = settings["encoder"] != "grid" and settings["decoder"] != "patch"
    return (*GRIDS, POINTS) if takes_points else GRIDS


def name(settings: dict[str, Any]) -> str:
    return "-".join(str(value) for value in settings.values())


@pytest.fixture(params=COMBINATIONS, ids=name)
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


def steps(spec) -> int:
    return 1 if spec.steady else 2


def test_untrained_is_persistence(settings: dict[str, Any]) -> None:
    model = make(specs=families(settings), context_frames=2, **settings)
    for training in (True, False):
        model.train(training)
        for spec in families(settings):
            u, *rest = inputs(spec, batch=2, frames=2)
            predicted = model(u, *rest, steps(spec))
            torch.testing.assert_close(predicted, u[:, -1:].expand_as(predicted), rtol=1e-6, atol=1e-6)


def test_no_weight_is_cut_off_by_two_zeros(settings: dict[str, Any]) -> None:
    """What starts at zero hides what lies behind it for a step: the head or the operator's output (never both), then
    the gates and modulations of AdaLN-zero. After one step all but what these hide has a gradient, after two all."""
    specs = [spec for spec in families(settings) if spec in (LINE, FORCED, POINTS)]
    model = make(specs=specs, context_frames=2, frame_dropout=0.5, conditioning={"dropout": 0.3}, **settings).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def without_gradient() -> set[str]:
        optimizer.zero_grad()
        for spec in specs:
            u, *rest = inputs(spec, batch=8, frames=2)
            mask = torch.rand(u.shape) > 0.3 if spec.masked else None
            found = model(u, *rest, steps(spec), mask_btcx=mask, reconstruct=model.latent)
            for frames in found if model.latent else [found]:  # without the reconstruction D's bias cancels
                (frames - (u[:, -1:] if frames.ndim == u.ndim else u[:, -1]) - 0.1).square().mean().backward(
                    retain_graph=True
                )
        return {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}

    hidden = without_gradient()
    first = (
        "operator.out.weight"
        if model.latent
        else next(n for n, _ in model.named_parameters() if "head" in n and "weight" in n)
    )
    assert first not in hidden
    optimizer.step()
    still_hidden = {name for name in without_gradient() if not re.search(BEHIND_A_GATE, name)}
    assert still_hidden == set()
    optimizer.step()
    assert without_gradient() == set()
