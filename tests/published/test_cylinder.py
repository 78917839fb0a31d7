"""A field on a mesh that nobody here made: the vorticity of the flow past a cylinder, on the 49,852 nodes of a
spectral-element mesh (Raissi, Perdikaris and Karniadakis, J. Comput. Phys. 378, 2019). It is encoded from some of the
nodes and decoded at others."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import make

from ups_scale.model.neighbours import nearest
from ups_scale.model.places import ask, fractions, own_places
from ups_scale.model.simulator import Simulator
from ups_scale.physics.families import FamilySpec

FILE = Path(__file__).parents[3] / "shared" / "data" / "cylinder_nektar_t0_vorticity.mat"
RADIUS = 0.5
GIVEN, ASKED, STEPS, LEARNING_RATE = 4096, 1024, 600, 4e-3
LARGEST_ERROR = 0.1
BUDGET_S = 180  # of one core

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not FILE.exists(), reason=f"needs {FILE.name} of github.com/maziarraissi/PINNs in {FILE.parent}"
    ),
]


@dataclass(frozen=True)
class Snapshot:
    """Places (N, 2), of which no two are the same, and vorticity (N,), float32; the nodes held out for good."""

    place: torch.Tensor
    vorticity: torch.Tensor
    held: torch.Tensor
    given: torch.Tensor

    def frame(self, nodes: torch.Tensor) -> torch.Tensor:
        """(1, 1, 3, P) the context frame of some of the nodes."""
        return torch.cat([self.place[nodes], self.vorticity[nodes, None]], dim=1).T[None, None]

    def spec(self, num_points: int) -> FamilySpec:
        low, high = self.place[:, 0].min(), self.place[:, 0].max()
        return FamilySpec(
            name="cylinder_wake_2d",
            fields=("log_r", "angle", "vorticity"),
            units=("1", "1", "1"),
            parameters=(),
            grid=(num_points,),
            extents=((float(low) - 1e-4, float(high) + 1e-4), (-math.pi, math.pi)),
            boundaries=(("dirichlet", "open"), ("periodic", "periodic")),
            u_rms=(1.0, 1.0, float(self.vorticity[self.given].square().mean().sqrt())),
            delta_rms=(0.0, 0.0, 1.0),
            dt=1.0,
            static=("log_r", "angle"),
            geometry="points",
            coordinates=("log_r", "angle"),
        )

    def error(self, found: torch.Tensor) -> float:
        """Relative L2 error at the nodes held out."""
        return float((found - self.vorticity[self.held]).norm() / self.vorticity[self.held].norm())


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    """In the mesh's own coordinates, log r and the angle, in which its nodes are nearly as dense near the cylinder as
    far from it. Elements share nodes at their borders, which are one node here, so that none is on both sides."""
    scipy_io = pytest.importorskip("scipy.io", reason="reads MATLAB files")
    stored = {name: values.ravel() for name, values in scipy_io.loadmat(FILE).items() if name in ("x", "y", "w")}
    nodes = np.stack([stored["x"], stored["y"]], axis=1)
    nodes, number = np.unique(nodes.round(5), axis=0, return_inverse=True)
    vorticity = np.bincount(number.ravel(), stored["w"]) / np.bincount(number.ravel())
    r = np.hypot(*nodes.T)
    place = np.stack([np.log(r / RADIUS), np.arctan2(nodes[:, 1], nodes[:, 0])], axis=1)
    held = np.random.default_rng(0).random(len(nodes)) < 0.1
    numbers = (torch.from_numpy(np.flatnonzero(which)) for which in (held, ~held))
    return Snapshot(torch.from_numpy(place).float(), torch.from_numpy(vorticity).float(), *numbers)


def decoded(model: Simulator, snapshot: Snapshot, given: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """(Q,) vorticity at the nodes `asked`, from that at the nodes `given`."""
    at = snapshot.place[asked][None]
    nothing = torch.zeros(1, 0)
    _, found = model(
        snapshot.frame(given), "cylinder_wake_2d", nothing, torch.ones(1, 1), 0, at=at, reconstruct=True
    )  # fmt: skip
    return found[0, 2]


def test_the_mesh_and_what_is_held_out(snapshot: Snapshot) -> None:
    """Nothing that is held out is given, not even as the same node of another element."""
    assert len(snapshot.place) == 46881
    assert len(snapshot.held) + len(snapshot.given) == 46881
    assert 0.09 < len(snapshot.held) / 46881 < 0.11
    some = snapshot.held[:500]
    distance = torch.cdist(snapshot.place[some].double(), snapshot.place[snapshot.given].double())
    assert distance.min() > 1e-5
    assert float(snapshot.place[:, 0].min()) == pytest.approx(0, abs=1e-4)


def test_the_flow_is_decoded_where_it_was_never_given(snapshot: Snapshot) -> None:
    started_s = time.process_time()
    torch.manual_seed(0)
    model = make(
        specs=[snapshot.spec(GIVEN)], encoder="points", decoder="points", prediction="latent", depth=1, latent_dim=64,
        latent_tokens=512, supernodes=1024, neighbours=16, conditioning={"geometry": False},
    ).train()  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    mean_square = snapshot.vorticity[snapshot.given].square().mean()
    for step in range(STEPS):
        rate = LEARNING_RATE * min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / STEPS)) / 2
        optimizer.param_groups[0]["lr"] = rate
        order = snapshot.given[torch.randperm(len(snapshot.given))]
        given, asked = order[:GIVEN], order[GIVEN : GIVEN + ASKED]
        loss = (decoded(model, snapshot, given, asked) - snapshot.vorticity[asked]).square().mean() / mean_square
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    took_s = time.process_time() - started_s

    model.eval()
    subsets = [snapshot.given[torch.randperm(len(snapshot.given))[:GIVEN]] for _ in range(8)]
    with torch.no_grad():
        found = torch.stack([decoded(model, snapshot, subset, snapshot.held) for subset in subsets])
    one, mean = snapshot.error(found[0]), snapshot.error(found.mean(dim=0))
    print(f"\nmodel, from {GIVEN:,} nodes: {one:.4f}; mean of 8 such sets: {mean:.4f}")
    print(f"{took_s:.0f} s of one core, of a budget of {BUDGET_S} s")
    for number, nodes in ((GIVEN, subsets[0]), (len(snapshot.given), snapshot.given)):
        spec, frame = snapshot.spec(number), snapshot.frame(nodes)[:, 0]
        places, at = own_places(spec, frame), snapshot.place[snapshot.held][None]
        linear = ask(spec, (1, 1), at, places, None).interpolate(frame)[0, 2]
        near = nearest(fractions(at, spec), places, [h - l for l, h in spec.extents], spec.periodic, 1).index_bmk
        print(
            f"from {number:,} nodes: nearest {snapshot.error(frame[0, 2, near[0, :, 0]]):.4f}, "
            f"local linear {snapshot.error(linear):.4f}"
        )
    assert one <= LARGEST_ERROR
    assert mean < one
