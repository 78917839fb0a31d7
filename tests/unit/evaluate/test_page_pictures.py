"""Rollouts in a report: every frame is in the picture, missing values are grey, points are dots, sizes stay bounded."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from page_input import NUM_STEPS, SPECS, diverged_example, examples
from PIL import Image

from ups_scale.evaluate.page import places, sprites
from ups_scale.evaluate.page.rollouts import rollouts
from ups_scale.evaluate.page.sprites import NO_VALUE, NOTHING, Shades

PLENTY = 10**6


def pictures(html):
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", html)
    return [Image.open(io.BytesIO(base64.b64decode(picture))) for picture in found]


def drawn(name, pixels=PLENTY, best="fno", **more):
    return rollouts(SPECS[name], examples(SPECS[name]), (1, 4, 6), best, pixels, alone=False, **more)


def test_a_picture_holds_all_frames_below_each_other():
    html = drawn("reaction_diffusion_2d")
    found = pictures(html)
    # Truth, model, fno and error of three trajectories and two fields.
    assert len(found) == 4 * 3 * 2
    assert {picture.size for picture in found} == {(8, NUM_STEPS * (12 + 2 * sprites.EDGE))}
    assert f'data-steps="{list(range(1, NUM_STEPS + 1))}"' in html
    assert html.count('aria-label="model \u2212 truth, inhibitor"') == 3


def test_the_shown_frame_is_the_one_asked_for():
    levels = np.stack([np.full((3, 4), 10 + k, np.uint8) for k in range(5)])
    made = sprites.sprite(levels, Shades("viridis", 0, 1))
    (picture,) = pictures(made.uri)
    stack = np.asarray(picture)
    per_k, start = re.search(r"calc\(([\d.]+)% \* var\(--k\) \+ ([\d.]+)%\)", made.style()).groups()
    for k in range(5):
        top = (float(per_k) * k + float(start)) / 100 * (len(stack) - 3)
        assert top == pytest.approx(round(top), abs=1e-4)
        assert (stack[round(top) : round(top) + 3] == 10 + k).all()
        # The rows that a rounding browser might show belong to the frame, too.
        assert (stack[round(top) - 1] == 10 + k).all()
        assert (stack[round(top) + 3] == 10 + k).all()


def test_up_is_up():
    frame = np.zeros((1, 8, 12), np.float32)
    frame[0, :, -1] = 1.0  # the largest y
    shades = Shades("viridis", 0, 1)
    spec = SPECS["reaction_diffusion_2d"]
    levels = places.canvas(spec, np.zeros((2, 8, 12)), 192).frames(frame, shades)
    assert levels.shape == (1, 12, 8)
    assert (levels[0, 0] == 255).all()
    assert (levels[0, 1:] == sprites.FIRST).all()


def test_missing_values_are_grey_and_do_not_set_the_scale():
    values = np.array([[np.nan, 0.0, 2.0, np.inf]])
    shades = sprites.truth_shades(values)
    assert (shades.low, shades.high) == (0.0, 2.0)
    assert list(shades.levels(values)[0]) == [NO_VALUE, sprites.FIRST, 255, NO_VALUE]
    assert tuple(shades.palette()[NO_VALUE]) == sprites.BLANK
    for picture in pictures(drawn("ocean")):
        assert (np.asarray(picture) == NO_VALUE).any()


def test_static_fields_are_not_drawn():
    html = drawn("ocean")
    assert "sst" in html
    assert "depth" not in html
    assert "K</span>" in html


def test_a_scale_has_both_signs_only_if_the_truth_has():
    assert sprites.truth_shades(np.array([-1.0, 0.5])) == Shades("RdBu_r", -1.0, 1.0)
    assert sprites.truth_shades(np.array([-0.1, 5.0])) == Shades("viridis", -0.1, 5.0)
    assert sprites.truth_shades(np.array([3.0, 3.0])) == Shades("viridis", 3.0, 4.0)
    assert sprites.truth_shades(np.array([np.nan])) == Shades("viridis", 0.0, 1.0)


def test_errors_beyond_the_scale_are_said_to_be():
    truth = np.array([0.0, 1.0])
    assert sprites.error_shades(np.array([0.1, -0.2]), truth) == Shades("PuOr_r", -0.2, 0.2)
    assert sprites.error_shades(np.array([100.0]), truth) == Shades("PuOr_r", -2.0, 2.0, clipped=True)
    assert sprites.error_shades(np.array([np.nan]), truth) == Shades("PuOr_r", -1.0, 1.0)
    example = examples(SPECS["euler_3d"])[0]
    example.pred_hcx = example.pred_hcx * 1e6
    html = rollouts(SPECS["euler_3d"], [example], (1, 4, 6), None, PLENTY, alone=True)
    assert "\u2265" in html


def test_points_are_dots_where_they_lie():
    spec = SPECS["cloud"]
    first = np.full((3, 40), np.nan)
    first[1:, :2] = [[0.25, 0.75], [0.25, 0.75]]
    place = places.canvas(spec, first, 64)
    levels = place.frames(np.array([[0.0, 1.0] + [0.5] * 38]), Shades("viridis", 0, 1))
    assert levels.shape == (1, 64, 64)
    assert levels[0, 47, 16] == sprites.FIRST  # the lower left one
    assert levels[0, 16, 47] == 255
    assert levels[0, 0, 0] == NOTHING
    assert pictures(drawn("cloud"))[0].info["transparency"] == NOTHING


def test_three_dimensions_show_the_middle():
    values = np.zeros((1, 6, 6, 6), np.float32)
    values[..., 3] = 1.0
    levels = places.canvas(SPECS["euler_3d"], np.zeros((1, 6, 6, 6)), 192).frames(values, Shades("viridis", 0, 1))
    assert (levels == 255).all()


@pytest.mark.parametrize(
    ("height", "aspect", "told"),
    [(1.0, 1.0, ""), (0.3, 1 / 0.3, ""), (0.04, 5.0, "y stretched 5.0 x"), (25.0, 0.2, "x stretched 5.0 x")],
)
def test_flat_domains_are_stretched_and_say_so(height, aspect, told):
    spec = replace(SPECS["euler_3d"], grid=(6, 6), extents=((0.0, 1.0), (0.0, height)), boundaries=(("wall",) * 2,) * 2)
    place = places.canvas(spec, np.zeros((1, 6, 6)), 192)
    assert place.aspect == pytest.approx(aspect)
    assert place.stretched == told


def test_lines_hold_every_step_and_gaps():
    spec = SPECS["advection_1d"]
    html = rollouts(spec, [diverged_example(spec)], (1, 4, 6), "fno", PLENTY, alone=True)
    assert "not finite" in html
    lines = [np.frombuffer(base64.b64decode(text), "<u2") for text in re.findall(r'data-y="([^"]+)"', html)]
    assert [len(line) for line in lines] == [NUM_STEPS * 32] * 3  # truth, model, fno
    model = lines[1].reshape(NUM_STEPS, 32)
    assert (model[2:] == 65535).all()
    assert (model[:2] < 65535).all()


def test_pictures_get_coarser_and_fewer_frames_within_a_budget():
    spec = replace(SPECS["euler_3d"], grid=(300, 200, 2))
    truth = np.random.default_rng(0).normal(size=(40, 1, 300, 200, 2)).astype(np.float32)
    example = examples(SPECS["euler_3d"])[0]
    example.truth_hcx, example.pred_hcx, example.others = truth, truth, {}
    for pixels in (400_000, 20_000):
        html = rollouts(spec, [example], (1, 4, 40), None, pixels, alone=True)
        sizes = [width * height for width, height in (picture.size for picture in pictures(html))]
        assert max(sizes) <= 1.3 * pixels
        steps = [int(k) for k in re.search(r'data-steps="\[([^\]]+)\]"', html)[1].split(",")]
        assert {1, 4, 40} <= set(steps)


def test_reduction_leaves_missing_values_out_of_the_mean():
    values = np.array([[[1.0, np.nan, 5.0], [3.0, np.nan, np.nan]]])
    np.testing.assert_array_equal(sprites.reduced(values, 2), [[[2.0, 5.0]]])
    np.testing.assert_array_equal(sprites.reduced(values, 3), [[[3.0]]])


def test_a_steady_family_has_no_slider():
    spec = SPECS["euler_3d"]
    example = examples(spec)[0]
    example.truth_hcx, example.pred_hcx, example.others = example.truth_hcx[:1], example.pred_hcx[:1], {}
    html = rollouts(spec, [example], (1,), None, PLENTY, alone=True)
    assert "slider" not in html
    assert "<input" not in html
    assert "(step 1)" in html
    assert len(pictures(html)) == 3
