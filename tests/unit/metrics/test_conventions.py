"""The same name, another figure: PDEBench's and The Well's conventions beside ours, on the same rollouts."""

import math

import pytest
import torch
from measured_specs import spec_of

from ups_scale.metrics.accumulate import Accumulator
from ups_scale.metrics.measure import RolloutMeasure

PLANE = spec_of("reaction_diffusion_2d", (32, 32), "periodic", ("a", "b"))
LINE = spec_of("advection_1d", (64,))


def of_model(spec, truth, pred, last=None):
    """Figures over all fields at the only step, by metric; frames are (B, C, *X)."""
    accumulator = Accumulator()
    measure = RolloutMeasure(spec, truth if last is None else last, ["model"], (1,), accumulator)
    measure.step(1, truth, {"model": pred})
    measure.finish()
    marked = f"{spec.name}/model/all/"
    return {name.removeprefix(marked): x for name, x in accumulator.figures().items() if name.startswith(marked)}


def random_frames(spec, num=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth, noise = torch.randn(2, num, len(spec.fields), *spec.grid, generator=generator)
    return 1 + truth, 1 + truth + 0.3 * noise


def pdebench(pred, truth):
    """nRMSE, bRMSE and fRMSE (low, mid, high) as PDEBench defines them (arXiv 2210.07182, appendix B, and the released
    code): means over trajectories of roots, but in Fourier space roots of means over trajectories; there, of shells of
    wavenumbers that are not negative along any axis, and below Nyquist's in 2D, means over the shells of a band."""
    truth, pred = truth.double(), pred.double()
    error = pred - truth
    space = tuple(range(2, truth.ndim))
    nrmse = (error.square().mean(space).sqrt() / truth.square().mean(space).sqrt()).mean()
    if truth.ndim == 3:
        sides = (error[..., 0].square() + error[..., -1].square()) / 2
        shells = torch.fft.rfft(error, dim=2).abs().square().mean(0).sqrt() / truth.shape[2]
    else:
        nx, ny = truth.shape[2:]
        # Corners stand on two sides, and count twice.
        sides = sum(side.square().sum(-1) for side in (error[:, :, 0], error[:, :, -1], error[..., 0], error[..., -1]))
        sides = sides / (2 * nx + 2 * ny)
        power = torch.fft.fftn(error, dim=(2, 3)).abs().square()
        total = torch.zeros(*truth.shape[:2], min(nx, ny) // 2, dtype=torch.float64)
        for i in range(nx // 2):
            for j in range(ny // 2):
                if math.floor(math.hypot(i, j)) < total.shape[-1]:
                    total[..., math.floor(math.hypot(i, j))] += power[:, :, i, j]
        shells = total.mean(0).sqrt() / (nx * ny)
    bands = [shells[:, low:high].mean().item() for low, high in ((0, 4), (4, 12), (12, None))]
    return nrmse.item(), sides.sqrt().mean().item(), bands


@pytest.mark.parametrize("spec", [LINE, PLANE], ids=["1d", "2d"])
def test_pdebench_figures_are_those_of_its_formulas(spec):
    truth, pred = random_frames(spec)
    figures, (nrmse, _, bands) = of_model(spec, truth, pred), pdebench(pred, truth)
    assert figures["nrmse@1"] == pytest.approx(nrmse, rel=1e-12)
    found = [figures[f"frmse_pdebench_{band}@1"] for band in ("low", "mid", "high")]
    assert found == pytest.approx(bands, rel=1e-12)


def test_pdebench_boundary_error_is_a_mean_of_roots_and_counts_corners_twice():
    truth, pred = random_frames(LINE)
    ours = [of_model(LINE, truth[b : b + 1], pred[b : b + 1])["brmse@1"] for b in range(5)]
    assert pdebench(pred, truth)[1] == pytest.approx(sum(ours) / 5, rel=1e-12)
    corner = torch.ones(1, 2, 32, 32)
    wrong = corner.clone()
    wrong[..., 0, 0] = 2
    assert of_model(PLANE, corner, wrong)["brmse@1"] == pytest.approx(math.sqrt(1 / 124))
    assert pdebench(wrong, corner)[1] == pytest.approx(math.sqrt(2 / 128))


def test_all_quadrants_hold_the_whole_error_and_pdebench_misses_half_the_waves():
    truth, pred = random_frames(PLANE)
    figures = of_model(PLANE, truth, pred)
    total = sum(figures[f"frmse_{band}@1"] ** 2 for band in ("low", "mid", "high"))
    assert total == pytest.approx(figures["rmse@1"] ** 2, rel=1e-12)
    x = torch.arange(32) * (2 * math.pi / 32)
    for sign, seen in ((1, True), (-1, False)):
        # One wave across the diagonal, and its mirror image.
        wave = torch.cos(2 * x[:, None] + sign * 2 * x).expand(1, 2, 32, 32)
        found = of_model(PLANE, torch.ones_like(wave), 1 + wave)
        assert found["frmse_low@1"] == pytest.approx(math.sqrt(0.5), rel=1e-6)
        assert (found["frmse_pdebench_low@1"] > 0.01) == seen


def test_the_figures_of_the_well():
    the_well = pytest.importorskip("the_well.benchmark.metrics", reason="The Well's package is not installed")

    class Meta:
        n_spatial_dims = 2

    truth, pred = (u.double() for u in random_frames(PLANE))
    given = [u.movedim(1, -1) for u in (pred, truth)]
    figures = of_model(PLANE, truth, pred)
    assert figures["vrmse@1"] == pytest.approx(the_well.VRMSE.eval(*given, Meta).mean().item(), rel=1e-12)
    assert figures["mae@1"] == pytest.approx(the_well.MAE.eval(*given, Meta).mean().item(), rel=1e-12)
    assert figures["max_error@1"] == pytest.approx(the_well.LInfinity.eval(*given, Meta).mean().item(), rel=1e-12)
    # It adds 1e-7 to the truth's mean square; ours leaves such frames out.
    assert figures["nrmse@1"] == pytest.approx(the_well.NRMSE.eval(*given, Meta).mean().item(), rel=1e-6)
    small = [1e-4 * u for u in given]
    assert the_well.NRMSE.eval(*small, Meta).mean().item() < 0.7 * figures["nrmse@1"]
    assert of_model(PLANE, 1e-4 * truth, 1e-4 * pred)["nrmse@1"] == pytest.approx(figures["nrmse@1"], rel=1e-12)
    # Its correlation has a covariance over N and deviations over N - 1.
    biased = the_well.PearsonR.eval(given[1], given[1], Meta)
    assert biased.mean().item() == pytest.approx(1 - 1 / 1024, rel=1e-5)
    assert of_model(PLANE, truth, truth)["horizon_censored@0.8"] == 10


def test_conventions_differ_by_hundreds_on_fields_of_other_scales():
    """Three fields of scale 1, 100 and 0.01, wrong by 3 %, 0.1 % and 104 %, each with a mean of 0.3 deviations."""
    spec = spec_of("compressible_flow_1d", (256,), fields=("a", "b", "c"))
    x = torch.arange(256, dtype=torch.float64) * (2 * math.pi / 256)
    shape = math.sqrt(2) * x.sin() + 0.31
    scale = torch.tensor([1.0, 100.0, 0.01], dtype=torch.float64)[:, None] / shape.square().mean().sqrt()
    relative = torch.tensor([0.03, 0.001, 1.043], dtype=torch.float64)[:, None]
    truth = scale * shape
    error = relative * scale * shape.square().mean().sqrt() * math.sqrt(2) * (5 * x).cos()
    figures = of_model(spec, truth[None], (truth + error)[None])
    assert figures["nrmse@1"] == pytest.approx(0.358, abs=5e-4)
    assert figures["vrmse@1"] == pytest.approx(0.374, abs=5e-4)
    assert figures["rel_l2@1"] == pytest.approx(0.0010, abs=5e-5)
    assert pdebench((truth + error)[None], truth[None])[0] == pytest.approx(figures["nrmse@1"], rel=1e-12)
