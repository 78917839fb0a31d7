"""Guards: what each makes a frame keep, to which families it applies, and the records of budgets and horizons."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from small_models import BOX, FORCED, LINE, PLANE, POINTS, STEADY, TORUS, inputs, make

from ups_scale.errors import UserError
from ups_scale.evaluate.entrants import guarded as guarded_entrants
from ups_scale.evaluate.entrants import model_entrant, trivial_entrants
from ups_scale.evaluate.testset import TestSet
from ups_scale.metrics.accumulate import Accumulator
from ups_scale.metrics.measure import RolloutMeasure
from ups_scale.model.lattice import Tiling
from ups_scale.physics.projections import relative_divergence
from ups_scale.rollout.budget import Budget
from ups_scale.rollout.corrections import continuous_at_faces, non_negative
from ups_scale.rollout.guards import GUARDS, Guards
from ups_scale.rollout.horizon import HorizonGuard, correlation
from ups_scale.rollout.rollout import rollout
from ups_scale.rollout.trivial import Extrapolation

ROUND = ("periodic", "periodic")
FLOW = replace(
    BOX, name="navier_stokes_3d", fields=("velocity_y", "velocity_x", "velocity_z"), units=("1",) * 3,
    parameters=("nu",), u_rms=(1.0,) * 3, delta_rms=(0.1,) * 3,
)  # fmt: skip
STIRRED = replace(
    TORUS, name="incompressible_ns_2d", fields=("particles", "velocity_x", "velocity_y"), units=("1",) * 3,
    boundaries=(("dirichlet", "dirichlet"),) * 2, u_rms=(1.0,) * 3, delta_rms=(0.1,) * 3,
)  # fmt: skip
GAS = replace(
    LINE, name="compressible_flow_1d", fields=("density", "pressure", "velocity_x"), units=("1",) * 3,
    parameters=("M", "eta", "zeta"), u_rms=(1.0,) * 3, delta_rms=(0.1,) * 3,
)  # fmt: skip


def frames(spec, batch: int = 2, seed: int = 0):
    """(last, predicted), each (B, C, *X)."""
    u, *_ = inputs(spec, batch=batch, frames=2, seed=seed)
    return u[:, 0], u[:, 1]


def guarded(name: str, spec, last, predicted, mask=None, tilings=None):
    guard = Guards((name,), {spec.name: spec}, tilings or {}).start(spec, last, mask)
    assert guard is not None
    return guard(predicted)


@pytest.mark.parametrize(("spec", "order", "most"), [(FLOW, [1, 0, 2], 1e-4), (STIRRED, [1, 2], 1e-3)])
def test_helmholtz_takes_the_components_in_the_axes_order(spec, order, most) -> None:
    last, predicted = frames(spec)
    found = guarded("helmholtz", spec, last, predicted)
    assert relative_divergence(predicted[:, order], spec).min() > 1
    assert relative_divergence(found[:, order], spec).max() <= most
    if spec is STIRRED:
        assert torch.equal(found[:, 0], predicted[:, 0])


def test_positivity_keeps_positive_values_and_a_conserved_sum() -> None:
    last, predicted = frames(GAS)
    predicted[:, 0] += 1.0  # a density with some negative values
    found = guarded("positivity", GAS, last, predicted)
    assert predicted[:, :2].min() < 0
    assert found[:, :2].min() >= 0
    torch.testing.assert_close(found[:, 0].sum(1), predicted[:, 0].sum(1))  # mass is conserved, pressure isn't
    assert torch.equal(found[:, 1], predicted[:, 1].clamp_min(0))
    assert torch.equal(found[:, 2], predicted[:, 2])
    for row in range(2):  # taken from all positive values in proportion
        positive = predicted[row, 0] > 0.1
        share = found[row, 0, positive] / predicted[row, 0, positive]
        torch.testing.assert_close(share, share[:1].expand_as(share))
        assert share[0] < 0.99
    walled = replace(GAS, boundaries=(("open", "open"),))
    assert torch.equal(guarded("positivity", walled, last, predicted)[:, 0], predicted[:, 0].clamp_min(0))


def test_positivity_leaves_points_without_a_value_and_what_is_not_finite() -> None:
    height = replace(POINTS, name="shallow_water_2d-points40", masked=True)
    last, predicted = frames(height)
    mask = torch.ones_like(last, dtype=torch.bool)
    mask[..., :20] = False
    found = guarded("positivity", height, last, predicted, mask)
    assert torch.equal(found[:, 2, :20], predicted[:, 2, :20])
    assert torch.equal(found[:, 2, 20:], predicted[:, 2, 20:].clamp_min(0))
    assert torch.equal(found[:, :2], predicted[:, :2])
    broken = torch.tensor([[[math.nan, -1.0, 2.0]], [[-1.0, -2.0, 0.5]]])
    kept = non_negative(broken, None, conserving=True)
    assert kept[0].isnan().any()
    assert torch.equal(kept[1], torch.tensor([[0.0, 0.0, 0.5]]))  # a negative sum can't be kept


@pytest.mark.parametrize("spec", [TORUS, GAS], ids=lambda spec: spec.name)
def test_conservation_keeps_the_last_given_frames_integral(spec) -> None:
    last, predicted = frames(spec)
    found = guarded("conservation", spec, last, predicted)
    assert (predicted[:, 0] - last[:, 0]).flatten(1).mean(1).abs().min() > 0.01
    torch.testing.assert_close(found[:, 0].flatten(1).mean(1), last[:, 0].flatten(1).mean(1), rtol=0, atol=1e-6)
    shift = (found - predicted)[:, 0].flatten(1)
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), rtol=0, atol=1e-5)
    assert torch.equal(found[:, 1:], predicted[:, 1:])


@pytest.mark.parametrize("periodic", [True, False])
def test_faces_lose_their_jump_and_nothing_else(periodic: bool) -> None:
    tiling = Tiling((32, 12), (8, 3), (periodic, False))
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(2, 1, 32, 12, generator=generator, dtype=torch.float64)
    x = (torch.arange(32, dtype=torch.float64) + 0.5) / 32
    wave = (2 * torch.pi * x).sin()[:, None].expand(32, 12)
    patches = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    steps = patches.repeat_interleave(4, 0).repeat_interleave(4, 1)
    found = continuous_at_faces(before + steps, before, tiling)
    change = (found - before)[0, 0]

    def jumps(d, end):
        size = d.shape[0]
        a, b, c, e = (d[(end + offset) % size] for offset in (-1, 0, 1, 2))
        return (c - b) - ((b - a) + (e - c)) / 2

    for end in (3, 7, 27) + ((31,) if periodic else ()):
        assert jumps(steps, end).abs().max() > 0.1
        assert jumps(change, end).abs().max() < 1e-12
    assert jumps(change.T, 3).abs().max() < 1e-12
    torch.testing.assert_close(found.sum((2, 3)), (before + steps).sum((2, 3)))
    assert (change[1:3, 1:3] == steps[1:3, 1:3]).all()  # within a patch, away from faces
    # A smooth change is left as it is, to third order: halving the spacing divides what is done to it by eight.
    smooth = (continuous_at_faces(before + wave, before, tiling) - before - wave).abs().max()
    finer = Tiling((64, 12), (16, 3), (periodic, False))
    x = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    wave = (2 * torch.pi * x).sin()[:, None].expand(64, 12)
    zero = torch.zeros(1, 1, 64, 12, dtype=torch.float64)
    assert smooth < 3e-3
    less = (continuous_at_faces(zero + wave, zero, finer) - wave).abs().max()
    assert float(smooth / less) == pytest.approx(8, rel=0.1)


def test_each_frame_is_compared_with_the_guarded_one_before_it() -> None:
    """A jump that is in the given frame already is the physics' own, and stays; what is added to it goes."""
    tiling = {"t": Tiling(LINE.grid, (8,), (True,))}
    last, _ = frames(LINE)
    steps = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(1)).repeat_interleave(4, 2)
    guard = Guards(("interface_flux",), {}, tiling).start(LINE, last)
    assert torch.equal(guard(last), last)
    first = guard(last + steps)
    torch.testing.assert_close(first, continuous_at_faces(last + steps, last, tiling["t"]))
    torch.testing.assert_close(guard(first + steps), continuous_at_faces(first + steps, first, tiling["t"]))


def test_what_a_family_does_not_grant_is_left_out_with_the_reason() -> None:
    specs = {spec.name: spec for spec in (LINE, PLANE, GAS, FLOW, FORCED, POINTS, STEADY)}
    tilings = {
        "a": Tiling((32,), (8,), (True,)),
        "b": Tiling((16, 8), (3, 2), (False, False)),
        "c": Tiling((8, 8, 8), (4, 4, 4), (True,) * 3),
    }
    guards = Guards(("positivity", "conservation", "helmholtz", "interface_flux"), specs, tilings)
    assert guards.applied == {
        "advection_1d": ("interface_flux", "conservation"),
        "reaction_diffusion_2d": (),
        "compressible_flow_1d": ("conservation", "positivity"),
        "navier_stokes_3d": ("helmholtz", "conservation"),
        "incompressible_ns_2d": (),
        "shallow_water_2d-points40": ("positivity",),
        "darcy_2d": ("positivity",),
    }
    for name, of in guards.left_out.items():
        assert set(of) == set(GUARDS) - set(guards.applied[name])
        assert all(of.values())
    assert "shocks" in guards.left_out["compressible_flow_1d"]["interface_flux"]
    assert "overlap" in guards.left_out["reaction_diffusion_2d"]["interface_flux"]
    assert "no two patches of 3 or more points" in guards.left_out["navier_stokes_3d"]["interface_flux"]
    assert "points without a value" in guards.left_out["incompressible_ns_2d"]["conservation"]
    assert "scattered points" in guards.left_out["shallow_water_2d-points40"]["conservation"]
    assert "steady" in guards.left_out["darcy_2d"]["interface_flux"]
    assert guards.start(PLANE, torch.zeros(1, 2, *PLANE.grid)) is None
    with pytest.raises(UserError, match="guards helmholz: no such guard; there are conservation, helmholtz, interface"):
        Guards(("helmholz",), specs)


@pytest.mark.parametrize(("prediction", "moves"), [("field", True), ("latent", False)])
def test_patches_that_move_from_step_to_step_have_no_faces(prediction: str, moves: bool) -> None:
    model = make(specs=[TORUS, PLANE], patch_jitter=True, prediction=prediction).eval()
    assert model.moving_patches == ({TORUS.name} if moves else set())
    assert make(specs=[TORUS]).moving_patches == set()
    guards = Guards(("interface_flux", "conservation"), model.specs, model.tilings, model.moving_patches)
    assert guards.applied[TORUS.name] == (("conservation",) if moves else ("interface_flux", "conservation"))
    reason = "the model's patches move from step to step"
    assert (guards.left_out[TORUS.name].get("interface_flux") == reason) == moves
    assert "interface_flux" not in guards.left_out[PLANE.name]
    last, predicted = frames(TORUS)
    guard = guards.start(TORUS, last)
    mean_bc = last.double().mean((2, 3), keepdim=True) - predicted.double().mean((2, 3), keepdim=True)
    assert torch.allclose(guard(predicted), (predicted + mean_bc).float(), atol=1e-5) == moves


def test_an_evaluation_leaves_the_faces_of_moving_patches_alone() -> None:
    tests = [TestSet(spec, 8, None) for spec in (TORUS, PLANE)]
    for jitter, applied in ((True, ("conservation",)), (False, ("interface_flux", "conservation"))):
        model = make(specs=[TORUS, PLANE], patch_jitter=jitter).eval()
        entrants = [model_entrant(model, tests), *trivial_entrants(tests, 1)]
        for entrant in guarded_entrants(entrants, tests, ("interface_flux", "conservation"))[:-1]:
            assert entrant.guards.applied[TORUS.name] == applied
            assert entrant.guards.applied[PLANE.name] == ("interface_flux",)


def test_the_same_guards_act_on_a_model_and_on_a_trivial_predictor() -> None:
    model = make(specs=[TORUS], trained=True, context_frames=2).eval()
    u, name, parameters, dt = inputs(TORUS, frames=2)
    guards = Guards(GUARDS, model.specs, model.tilings)
    assert guards.applied[name] == ("interface_flux", "conservation")
    for predictor in (model, Extrapolation(model.specs)):
        budget, plain = (Budget(TORUS, u[:, -1]) for _ in range(2))
        for step, frame in rollout(predictor, u, name, parameters, dt, 3, guards=guards):
            budget.step(step, frame)
        for step, frame in rollout(predictor, u, name, parameters, dt, 3):
            plain.step(step, frame)
        assert plain.total()["integral_vorticity"].abs().max() > 1e-3
        assert budget.total()["integral_vorticity"].abs().max() < 1e-6


def test_budgets_say_what_is_gained_per_step_and_in_total() -> None:
    last = torch.ones(2, 3, *GAS.grid)
    last[:, 2] = 0.0
    budget = Budget(GAS, last)
    for step, factor in ((1, 1.5), (4, 2.0)):
        frame = last.clone()
        frame[:, 0] *= factor
        frame[:, 2] = 3.0
        budget.step(step, frame)
    assert budget.closed == {"mass": True, "momentum": True, "energy": True}
    assert budget.steps == [1, 4]
    assert budget.total()["mass"].tolist() == [[[0.5], [1.0]]] * 2
    assert budget.per_step()["mass"].tolist() == [[[0.5], [0.5]]] * 2
    assert budget.per_step()["momentum"].tolist() == [[[4.5], [1.5]]] * 2
    torch.testing.assert_close(budget.initial()["energy"], torch.full((2, 1), 1.5, dtype=torch.float64))
    assert Budget(PLANE, torch.zeros(1, 2, *PLANE.grid)).total() == {}
    open_ended = Budget(replace(GAS, boundaries=(("open", "open"),)), last)
    assert not any(open_ended.closed.values())


def test_correlation_is_pearsons() -> None:
    generator = torch.Generator().manual_seed(0)
    u, reference = (torch.randn(2, 3, 50, generator=generator) for _ in range(2))
    expected = torch.tensor(
        [[float(torch.corrcoef(torch.stack([u[b, c], reference[b, c]]))[0, 1]) for c in range(3)] for b in range(2)]
    )
    torch.testing.assert_close(correlation(u, reference).float(), expected, rtol=1e-4, atol=1e-5)
    mask = torch.zeros_like(u, dtype=torch.bool)
    mask[..., :20] = True
    torch.testing.assert_close(correlation(u, reference, mask), correlation(u[..., :20], reference[..., :20]))
    assert (correlation(0 * u + 3, reference) == -1).all()
    assert correlation(u, 0 * reference + 3).isnan().all()
    assert correlation(u, reference, mask & False).isnan().all()
    u[0, 0, 0] = math.inf
    found = correlation(u, reference)
    assert found[0, 0] == -1
    assert found[1:].isfinite().all()
    assert correlation(reference, u)[0, 0].isnan()


def test_the_horizon_guard_says_from_which_step_nothing_is_believed_any_more() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(2, 1, 64, generator=generator)
    noise = torch.randn(2, 1, 64, generator=generator)
    sizes = torch.tensor([[0.1, 0.1, 3.0, 0.1, 3.0, 3.0], [0.1, 0.1, 0.1, 0.1, 3.0, 3.0]])
    stream = [(k, truth + sizes[:, k - 1].reshape(2, 1, 1) * noise) for k in range(1, 7)]
    guard, accumulator = HorizonGuard(LINE, 2), Accumulator()
    measure = RolloutMeasure(replace(LINE, grid=(64,)), truth, ["model"], (6,), accumulator)
    firsts = []
    for step, u in stream:
        assert not guard.is_lost or step > 5
        guard.step(step, u, truth)
        measure.step(step, truth, {"model": u})
        firsts.append(guard.first_below.tolist())
    assert firsts == [[0, 0], [0, 0], [3, 0], [3, 0], [3, 5], [3, 5]]
    measure.finish()
    assert measure.horizons["model"].tolist() == firsts[-1]
