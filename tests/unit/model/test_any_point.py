"""The any-point decoder and its queries: one function of the place, local, equivariant, able to learn."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from small_models import BOX, FORCED, LINE, PLANE, TORUS
from torch.utils.flop_counter import FlopCounterMode

from ups_scale.errors import RecipeError
from ups_scale.model.any_point import AnyPointDecoder, log_clamp, neighbour_offsets, place_angles, query_features
from ups_scale.model.attention import rotary_angles
from ups_scale.model.encoder import GridEncoder
from ups_scale.model.lattice import Tiling, positions
from ups_scale.model.queries import Queries, grid_queries, point_queries
from ups_scale.physics.families import FamilySpec

CPU = torch.device("cpu")
SPECS = (LINE, PLANE, TORUS, FORCED, BOX)
LATTICES = {LINE.name: (8,), PLANE.name: (4, 2), TORUS.name: (4, 4), FORCED.name: (4, 1), BOX.name: (2, 2, 4)}
CHANNEL = replace(TORUS, name="channel", boundaries=(("periodic", "periodic"), ("dirichlet", "dirichlet")))
DIM, CONDITION = 24, 10


def decoder(
    reach: int, zero: bool = False, seed: int = 0, specs=SPECS, lattices=LATTICES, **changes
) -> AnyPointDecoder:
    torch.manual_seed(0)
    settings = {"num_heads": 2, "qk_rmsnorm": True, "log_clamp": 10.0, **changes}
    model = AnyPointDecoder(
        specs, lattices, latent_dim=DIM, condition_dim=CONDITION, reach=reach, zero=zero, **settings
    )
    with torch.no_grad():
        model.modulation.weight.normal_(std=0.1)
    return model


def latent(spec: FamilySpec, lattice: tuple[int, ...], batch: int = 2, streams: int = 1) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    z_bsld = torch.randn(batch, streams, math.prod(lattice), DIM, generator=generator)
    return z_bsld, torch.randn(batch, CONDITION, generator=generator)


@pytest.mark.parametrize("grid", [(32,), (16, 8), (7, 9), (3, 8), (4, 6, 5)])
@pytest.mark.parametrize("tokens", [1, 2, 4])
def test_grid_queries_are_the_cell_centres_in_the_grids_order(grid: tuple[int, ...], tokens: int) -> None:
    queries = grid_queries(grid, (tokens,) * len(grid), CPU)
    place_bcx = queries.restore(queries.place_bgvd)
    assert place_bcx.shape == (1, len(grid), *grid)
    torch.testing.assert_close(place_bcx[0].flatten(1).T, positions(grid))


def test_where_the_lattice_divides_the_grid_a_group_is_a_patch() -> None:
    queries = grid_queries((8, 4), (4, 2), CPU)
    assert queries.place_bgvd.shape == (1, 8, 4, 2)
    torch.testing.assert_close(queries.place_bgvd.mean(dim=2)[0], positions((4, 2)))
    assert queries.cell_bgd[0].tolist() == [[row, column] for row in range(4) for column in range(2)]


def test_grid_queries_are_kept_and_can_be_trained_with_after_inference() -> None:
    with torch.inference_mode():
        first = grid_queries((6, 10), (3, 5), CPU)
    assert grid_queries((6, 10), (3, 5), CPU) is first
    assert not first.place_bgvd.is_inference()


def test_cells_of_points_are_clamped_to_the_lattice() -> None:
    place_bqd = torch.tensor([[[0.0], [0.2499999], [0.26], [1.0], [1.1], [-0.1]]])
    assert point_queries(place_bqd, (4,)).cell_bgd[0, :, 0].tolist() == [0, 1, 1, 3, 3, 0]  # a rounding below a border


@pytest.mark.parametrize("reach", [0, 1, 2])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("odd", [False, True])
def test_a_grid_and_its_points_decode_to_the_same(reach: int, spec: FamilySpec, odd: bool) -> None:
    lattice, model = LATTICES[spec.name], decoder(reach)
    grid = tuple(size + 1 for size in spec.grid) if odd else spec.grid
    z_bsld, condition_bd = latent(spec, lattice)
    on_grid = model(z_bsld, condition_bd, spec, grid_queries(grid, lattice, CPU))
    assert on_grid.shape == (2, len(spec.dynamic), *grid)
    assert on_grid.dtype == torch.float32
    places = positions(grid)[None]
    for place_bqd in (places, places.expand(2, -1, -1)):
        at_points = model(z_bsld, condition_bd, spec, point_queries(place_bqd, lattice))
        torch.testing.assert_close(at_points.reshape(on_grid.shape), on_grid, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reach", [0, 1])
def test_samples_have_places_of_their_own(reach: int) -> None:
    model, lattice = decoder(reach), LATTICES[PLANE.name]
    z_bsld, condition_bd = latent(PLANE, lattice, batch=3, streams=2)
    place_bqd = torch.rand(3, 20, 2)
    together = model(z_bsld, condition_bd, PLANE, point_queries(place_bqd, lattice))
    for b in range(3):
        one = slice(b, b + 1)
        alone = model(z_bsld[one], condition_bd[one], PLANE, point_queries(place_bqd[one], lattice))
        torch.testing.assert_close(together[one], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reach", [0, 1, 2])
@pytest.mark.parametrize(("spec", "shift"), [(LINE, (3,)), (TORUS, (1, 2)), (CHANNEL, (1, 0)), (BOX, (1, 0, 3))])
def test_fields_shifted_by_whole_cells_give_shifted_values(
    reach: int, spec: FamilySpec, shift: tuple[int, ...]
) -> None:
    lattice = {**LATTICES, CHANNEL.name: (4, 4)}[spec.name]
    model = decoder(reach, specs=[spec], lattices={spec.name: lattice})
    z_bsld, condition_bd = latent(spec, lattice)
    axes = tuple(range(2, 2 + len(lattice)))
    moved_bsld = z_bsld.unflatten(2, lattice).roll(shift, axes).flatten(2, 1 + len(lattice))
    queries = grid_queries(spec.grid, lattice, CPU)
    still, moved = model(z_bsld, condition_bd, spec, queries), model(moved_bsld, condition_bd, spec, queries)
    points = tuple(step * size // tokens for step, size, tokens in zip(shift, spec.grid, lattice, strict=True))
    torch.testing.assert_close(moved, still.roll(points, axes), atol=1e-4, rtol=1e-4)
    assert (moved - still).abs().max() > 0.01

    place_bqd = torch.rand(2, 30, len(lattice))
    moved_place_bqd = (place_bqd + torch.tensor(shift) / torch.tensor(lattice)) % 1
    torch.testing.assert_close(
        model(moved_bsld, condition_bd, spec, point_queries(moved_place_bqd, lattice)),
        model(z_bsld, condition_bd, spec, point_queries(place_bqd, lattice)),
        atol=1e-4,
        rtol=1e-4,
    )


def test_where_the_domain_has_ends_the_place_matters() -> None:
    model = decoder(1)
    z_bsld, condition_bd = latent(PLANE, (4, 2))
    same_bsld = z_bsld[:, :, :1].expand_as(z_bsld)
    values = model(same_bsld, condition_bd, PLANE, grid_queries((16, 8), (4, 2), CPU))
    assert (values[..., :4, :4] - values[..., 4:8, :4]).abs().max() > 0.01


@pytest.mark.parametrize("reach", [1, 2])
@pytest.mark.parametrize("lattice", [(6, 5), (2, 1), (1, 3), (2, 4)])
@pytest.mark.parametrize("spec", [TORUS, PLANE, CHANNEL], ids=lambda spec: spec.name)
def test_a_query_sees_the_tokens_within_reach(reach: int, lattice: tuple[int, int], spec: FamilySpec) -> None:
    model = decoder(reach, specs=[spec], lattices={spec.name: lattice})
    z_bsld, condition_bd = latent(spec, lattice, batch=1)
    z_bsld.requires_grad_()
    cell = (lattice[0] - 1, 0)
    place_bqd = (torch.tensor([[cell]]) + 0.3) / torch.tensor(lattice)
    model(z_bsld, condition_bd, spec, point_queries(place_bqd, lattice)).sum().backward()
    seen = z_bsld.grad[0, 0].abs().sum(dim=-1).reshape(lattice) > 0
    for token in torch.cartesian_prod(*map(torch.arange, lattice)).tolist():
        near = True
        for here, there, size, wraps in zip(cell, token, lattice, spec.periodic, strict=True):
            apart = abs(here - there)
            near &= min(apart, size - apart if wraps else apart) <= reach
        assert seen[tuple(token)] == near, token


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("tokens", range(1, 8))
@pytest.mark.parametrize("reach", [1, 2, 3])
def test_no_token_of_a_short_axis_is_attended_to_twice(tokens: int, periodic: bool, reach: int) -> None:
    offsets = [offset[0] for offset in neighbour_offsets((tokens,), (periodic,), reach)]
    for cell in range(tokens):
        seen = [cell + offset for offset in offsets]
        seen = [token % tokens for token in seen] if periodic else [token for token in seen if 0 <= token < tokens]
        assert len(seen) == len(set(seen))
        if periodic:
            assert len(seen) == min(tokens, 2 * reach + 1)


@pytest.mark.parametrize("reach", [0, 1])
def test_a_separate_stream_decides_its_own_field_only(reach: int) -> None:
    model, lattice = decoder(reach), LATTICES[PLANE.name]
    z_bsld, condition_bd = latent(PLANE, lattice, streams=2)
    queries = grid_queries(PLANE.grid, lattice, CPU)
    before = model(z_bsld, condition_bd, PLANE, queries)
    z_bsld[:, 1] += 1
    after = model(z_bsld, condition_bd, PLANE, queries)
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.allclose(before[:, 1], after[:, 1])


@pytest.mark.parametrize("reach", [0, 1])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_zero_starts_at_nothing(reach: int, spec: FamilySpec) -> None:
    lattice = LATTICES[spec.name]
    values = decoder(reach, zero=True)(*latent(spec, lattice), spec, grid_queries(spec.grid, lattice, CPU))
    assert torch.equal(values, torch.zeros_like(values))


@pytest.mark.parametrize("reach", [0, 1])
@pytest.mark.parametrize("streams", ["joint", "separate"])
@pytest.mark.parametrize("spec", [*SPECS, None], ids=lambda spec: spec.name if spec else "probe")
def test_every_weight_takes_part_whatever_the_family(reach: int, streams: str, spec: FamilySpec | None) -> None:
    model = decoder(reach)
    if spec is None:
        result = model.probe()
        assert result == 0.0
    else:
        lattice = LATTICES[spec.name]
        num_streams = len(spec.fields) if streams == "separate" else 1
        result = model(*latent(spec, lattice, streams=num_streams), spec, grid_queries(spec.grid, lattice, CPU)).sum()
    result.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    with torch.no_grad():
        assert model.probe() == 0.0


def test_weights_do_not_depend_on_the_number_of_axes() -> None:
    queries = {spec: grid_queries(spec.grid, LATTICES[spec.name], CPU) for spec in (LINE, TORUS, BOX)}
    features = {s: query_features(q, LATTICES[s.name], s.periodic) for s, q in queries.items()}
    assert {f.shape[-1] for f in features.values()} == {51}
    assert not features[LINE][..., 17:].any()
    assert not features[TORUS][..., 34:].any()


@pytest.mark.parametrize("spec", [LINE, PLANE, CHANNEL, BOX], ids=lambda spec: spec.name)
def test_places_rotate_like_tokens(spec: FamilySpec) -> None:
    angles = place_angles(positions(spec.grid), spec.periodic, 7)
    torch.testing.assert_close(angles, rotary_angles(spec.grid, spec.periodic, 7))


def test_log_clamp_is_continuous_with_its_slope() -> None:
    x = torch.linspace(-30, 30, 60001, dtype=torch.float64, requires_grad=True)
    y = log_clamp(x, 10.0)
    inside = x.detach().abs() < 10 - 1e-9
    assert torch.equal(y[inside], x[inside])
    slope = torch.autograd.grad(y.sum(), x)[0]
    assert (y[1:] > y[:-1]).all()
    assert slope.diff().abs().max() < 2e-3
    torch.testing.assert_close(y[-1], torch.tensor(10 + math.log(21), dtype=torch.float64))
    torch.testing.assert_close(y, -y.flip(0))
    at = torch.tensor([-25.0, -10.5, 0.0, 3.0, 9.9, 14.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: log_clamp(x, 10.0), at)
    edge = torch.tensor([10.0, -10.0], requires_grad=True)
    log_clamp(edge, 10.0).sum().backward()
    assert edge.grad.tolist() == [1.0, 1.0]


def test_log_clamp_holds_large_outputs() -> None:
    lattice = LATTICES[TORUS.name]
    models = {threshold: decoder(1, log_clamp=threshold) for threshold in (None, 10.0)}
    values = {}
    for threshold, model in models.items():
        with torch.no_grad():
            model.head.weight *= 1000
        values[threshold] = model(*latent(TORUS, lattice), TORUS, grid_queries(TORUS.grid, lattice, CPU))
    assert values[None].abs().max() > 100
    torch.testing.assert_close(values[10.0], log_clamp(values[None], 10.0))


@pytest.mark.parametrize("reach", [0, 1])
@pytest.mark.parametrize("spec", [TORUS, PLANE], ids=lambda spec: spec.name)
def test_gradients_of_the_attention(reach: int, spec: FamilySpec) -> None:
    lattice = (3, 2)
    model = decoder(reach, qk_rmsnorm=False, specs=[spec], lattices={spec.name: lattice}).double()
    place_bqd = torch.rand(2, 3, 2, dtype=torch.float64)
    queries = point_queries(place_bqd, lattice)
    attend = model._attend_near if reach else model._attend_all
    q = torch.randn(2, 3, 1, DIM, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(4, 6, DIM, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, spec, queries), (q, k, v), fast_mode=True)
    features = lambda place: query_features(Queries(place, queries.cell_bgd, (3,)), lattice, spec.periodic)  # noqa: E731
    assert torch.autograd.gradcheck(features, queries.place_bgvd.clone().requires_grad_())


@pytest.mark.parametrize("reach", [0, 1])
@pytest.mark.parametrize("spec", [LINE, PLANE], ids=lambda spec: spec.name)
def test_bf16_weights_stay_close_and_return_float32(reach: int, spec: FamilySpec) -> None:
    lattice, model = LATTICES[spec.name], decoder(reach)
    queries = grid_queries(spec.grid, lattice, CPU)
    full = model(*latent(spec, lattice), spec, queries)
    low = model.to(torch.bfloat16)(*latent(spec, lattice), spec, queries)
    assert low.dtype == torch.float32
    assert (low - full).norm() < 0.05 * full.norm()
    (low.sum() + model.probe()).backward()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("reach", [0, 1])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_flops_are_counted_without_values(reach: int, spec: FamilySpec) -> None:
    meta, lattice = torch.device("meta"), LATTICES[spec.name]
    with meta:
        model = AnyPointDecoder(
            SPECS, LATTICES, latent_dim=DIM, condition_dim=CONDITION, num_heads=2, qk_rmsnorm=True, reach=reach,
            log_clamp=10.0, zero=True,
        )  # fmt: skip
    z_bsld, condition_bd = (x.to(meta) for x in latent(spec, lattice))
    with FlopCounterMode(display=False) as flops:
        values = model(z_bsld, condition_bd, spec, grid_queries(spec.grid, lattice, meta)) + model.probe()
        model(z_bsld, condition_bd, spec, point_queries(torch.rand(2, 5, len(lattice), device=meta), lattice))
        values.sum().backward()
    assert values.is_meta
    assert flops.get_total_flops() > 6 * 2 * math.prod(spec.grid) * DIM**2 * 2


def test_many_points_are_decoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, lattice = decoder(1), LATTICES[PLANE.name]
    z_bsld, condition_bd = latent(PLANE, lattice, streams=2)
    queries = point_queries(torch.rand(2, 50, 2), lattice)
    whole = model(z_bsld, condition_bd, PLANE, queries)
    monkeypatch.setattr("ups_scale.model.any_point.MAX_PAIRS", 2 * 7)
    torch.testing.assert_close(model(z_bsld, condition_bd, PLANE, queries), whole)


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"latent_dim, 24, into 5 heads .* make model.latent_dim a multiple"):
        decoder(1, num_heads=5)
    with pytest.raises(RecipeError, match=r"24, into 8 heads of equal width that is even"):
        decoder(0, num_heads=8)
    with pytest.raises(RecipeError, match=r"of width 4 .* a family has 3: lower model.num_heads"):
        decoder(0, num_heads=6)
    with pytest.raises(RecipeError, match=r"into 0 heads"):
        decoder(1, num_heads=0)
    decoder(1, num_heads=6)


@pytest.mark.parametrize("reach", [0, 1])
def test_it_learns_to_read_smooth_fields_between_the_points(reach: int) -> None:
    """Tokens are learned linear maps of patches; held-out fields at random places to 5 %."""
    lattice, steps, batch = (8,), 150, 16
    torch.manual_seed(0)
    encoder = GridEncoder(
        [LINE], {LINE.name: Tiling(LINE.grid, lattice, LINE.periodic)}, latent_dim=DIM, context_frames=1,
        channel_separated=False,
    )  # fmt: skip
    model = AnyPointDecoder(
        [LINE], {LINE.name: lattice}, latent_dim=DIM, condition_dim=1, num_heads=2, qk_rmsnorm=True, reach=reach,
        log_clamp=10.0, zero=True,
    )  # fmt: skip
    condition_bd = torch.zeros(batch, 1)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *model.parameters()], 1e-2, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    waves = 2 * math.pi * torch.arange(1.0, 5.0)

    def example() -> tuple[torch.Tensor, torch.Tensor]:
        amplitude, place_bq = torch.randn(batch, 8) / 2, torch.rand(batch, 64)

        def field(x: torch.Tensor) -> torch.Tensor:
            angle = x[..., None] * waves
            return (torch.cat([angle.sin(), angle.cos()], dim=-1) * amplitude[:, None]).sum(dim=-1)

        z_bsld = encoder(field(positions(LINE.grid)[:, 0].expand(batch, -1))[:, None, None], LINE)
        values = model(z_bsld, condition_bd, LINE, point_queries(place_bq[..., None], lattice))[:, 0]
        return values, field(place_bq)

    for _ in range(steps):
        values, target = example()
        loss = (values - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        values, target = example()
    assert (values - target).norm() < 0.05 * target.norm()
