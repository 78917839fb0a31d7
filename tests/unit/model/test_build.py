from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models import SPECS, inputs, make

from ups_scale.model.build import build_model
from ups_scale.recipe import load

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.mark.parametrize(("name", "millions"), [("S", 65), ("B", 150), ("L", 414), ("demo", 1.32)])
def test_presets_build_on_the_meta_device(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = build_model(load(RECIPES / f"{name}.json"), SPECS)
    count = sum(p.numel() for p in model.parameters())
    assert all(p.is_meta for p in model.parameters())
    assert count == pytest.approx(millions * 1e6, rel=0.1)


def test_the_order_of_the_families_does_not_matter() -> None:
    models = []
    for specs in (SPECS, SPECS[::-1]):
        torch.manual_seed(0)
        models.append(build_model(load(RECIPES / "demo.json"), specs))
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_stochastic_depth_is_random_in_training_only() -> None:
    model = make(trained=True, drop_path=0.5)
    u = inputs(SPECS[0], batch=8)
    model.train()
    assert not torch.equal(model(*u, 1), model(*u, 1))
    model.eval()
    assert torch.equal(model(*u, 1), model(*u, 1))
