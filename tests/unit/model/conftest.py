from __future__ import annotations

import pytest
from small_models import SPECS

from ups_scale.physics.families import FamilySpec


@pytest.fixture(params=SPECS, ids=lambda spec: spec.name)
def spec(request: pytest.FixtureRequest) -> FamilySpec:
    return request.param
