from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ups_scale.engine.schedule import lr_at

COMMON = {"peak": 2.0, "steps": 100, "warmup_ratio": 0.1, "final_lr_ratio": 0.25, "decay_ratio": 0.2}


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "wsd"])
def test_warmup_rises_linearly_from_the_first_step_to_the_peak(name: str) -> None:
    assert [lr_at(step, name=name, **COMMON) for step in (0, 4, 9, 10)] == pytest.approx([0.2, 1.0, 2.0, 2.0])


@pytest.mark.parametrize(
    ("name", "middle", "end"), [("cosine", 1.25, 0.5), ("linear", 1.25, 0.5), ("constant", 2.0, 2.0), ("wsd", 2.0, 0.5)]
)
def test_the_course_after_warmup(name: str, middle: float, end: float) -> None:
    assert lr_at(55, name=name, **COMMON) == pytest.approx(middle)
    assert lr_at(100, name=name, **COMMON) == pytest.approx(end)


def test_wsd_falls_only_over_its_last_share() -> None:
    rates = [lr_at(step, name="wsd", **COMMON) for step in (79, 80, 90)]
    assert rates == pytest.approx([2.0, 2.0, 1.25])


@given(
    st.sampled_from(["cosine", "linear", "wsd", "constant"]), st.integers(1, 500), st.floats(0, 0.5), st.floats(0, 1)
)
def test_never_above_the_peak_nor_below_the_floor_after_warmup(
    name: str, steps: int, warmup: float, floor: float
) -> None:
    for step in range(0, steps, max(1, steps // 20)):
        rate = lr_at(step, name=name, peak=1.0, steps=steps, warmup_ratio=warmup, final_lr_ratio=floor, decay_ratio=0.3)
        assert 0 < rate <= 1 + 1e-12 or (floor == 0 and rate == 0)
        if step >= warmup * steps:
            assert rate >= floor - 1e-12
