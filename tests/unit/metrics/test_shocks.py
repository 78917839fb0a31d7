"""Fronts of predictions against those of the truth."""

import math

import pytest
import torch
from measured_specs import spec_of

from ups_scale.metrics.shocks import grown, shock_overlap, steepness

LINE = spec_of(grid=(40,))


def step_at(place, size=40):
    return (torch.arange(size) >= place).double()


def overlap(pred, truth, spec=LINE):
    return [found.squeeze().tolist() for found in shock_overlap(pred[None], truth, spec)]


def test_fronts_worked_out_by_hand():
    # Between cells 9 and 10, and, as the line is periodic, 39 and 0: each jump is steep in 2 cells, and grows to 4.
    truth = step_at(10)
    assert overlap(truth, truth) == [1, 1, True]
    # One cell later: 3 of 4 cells in common at one of the two fronts.
    assert overlap(step_at(11), truth) == [pytest.approx(7 / 9), pytest.approx(7 / 8), True]
    assert overlap(step_at(20), truth) == [pytest.approx(4 / 12), pytest.approx(4 / 8), True]


def test_flat_predictions_have_no_front_and_flat_truths_none_to_find():
    assert overlap(torch.zeros(40), step_at(10)) == [0, 0, True]
    assert overlap(step_at(10), torch.ones(40).double())[2] is False


def test_what_is_not_finite_has_no_figure():
    pred = step_at(10)
    pred[30] = math.nan
    iou, precision, _ = overlap(pred, step_at(10))
    assert math.isnan(iou)
    assert math.isnan(precision)


def test_steepness_of_a_plane_is_its_slope_up_to_the_sides():
    spec = spec_of("shallow_water_2d", (8, 10), "wall", extents=((0.0, 2.0), (0.0, 5.0)))
    x, y = (torch.arange(8) + 0.5) / 4, (torch.arange(10) + 0.5) / 2
    plane = (3 * x[:, None] + 4 * y).double()
    torch.testing.assert_close(steepness(plane, spec), torch.full((8, 10), 5.0, dtype=torch.float64))


@pytest.mark.parametrize(("kind", "size"), [("periodic", 9), ("wall", 4)])
def test_sets_grow_across_corners_and_around_periodic_sides(kind, size):
    cells = torch.zeros(6, 6, dtype=torch.bool)
    cells[0, 0] = True
    assert grown(cells, spec_of("shallow_water_2d", (6, 6), kind)).sum() == size
