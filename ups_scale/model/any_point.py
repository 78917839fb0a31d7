"""Any-point decoder: the fields' values at any places, which attend to the tokens around them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_scale.errors import RecipeError
from ups_scale.model.attention import RMSNorm32, place_angles, rotate
from ups_scale.model.blocks import modulate, zero_init
from ups_scale.model.constants import constant
from ups_scale.model.decoder import FieldHead, dynamic_streams
from ups_scale.model.embed import MAX_AXES, Linear32
from ups_scale.model.lattice import positions
from ups_scale.model.queries import Queries, point_queries
from ups_scale.physics.families import FamilySpec

# Dimensions: b sample (1 in queries: the same places for all), s stream, n sample and stream, l token, g group of
# queries, v query of a group, q query, k neighbouring token, h head, e head width, d latent width (of places and cells:
# space axis), r rotated pair, f feature, c field.

FREQUENCIES = (1, 2, 4, 8)
AXIS_FEATURES = 1 + 4 * len(FREQUENCIES)
MLP_RATIO = 2
MAX_PAIRS = 65535


def log_clamp(x: Tensor, threshold: float) -> Tensor:
    """x, growing logarithmically beyond +-threshold: sign(x) (t + log(1 + |x| - t)); so is its slope continuous."""
    return x.clamp(-threshold, threshold) + x.sign() * torch.log1p(F.relu(x.abs() - threshold))


def query_features(queries: Queries, lattice: Sequence[int], periodic: Sequence[bool]) -> Tensor:
    """(B or 1, G, V, 3 * 17) float32, of each axis: the offset from the centre of the cell, in cells; its Fourier
    features of 1, 2, 4, 8 waves per cell, the same in every cell; and, where the domain has ends, those of 1, 2, 4, 8
    half waves over it. Zeros for axes that the domain doesn't have."""
    place_bgvd, cell_bgd = queries.place_bgvd, queries.cell_bgd
    waves = constant([2.0 * math.pi * f for f in FREQUENCIES], place_bgvd.device)
    features = []
    for axis, (tokens, wraps) in enumerate(zip(lattice, periodic, strict=True)):
        place_bgv1 = place_bgvd[..., axis : axis + 1]
        offset_bgv1 = place_bgv1 * tokens - cell_bgd[:, :, None, axis : axis + 1] - 0.5
        within = offset_bgv1 * waves
        overall = place_bgv1 * (waves / 2)
        absolute = [torch.zeros_like(overall)] * 2 if wraps else [overall.sin(), overall.cos()]
        features += [offset_bgv1, within.sin(), within.cos(), *absolute]
    present = torch.cat(features, dim=-1)
    return F.pad(present, (0, (MAX_AXES - len(lattice)) * AXIS_FEATURES))


def neighbour_offsets(lattice: Sequence[int], periodic: Sequence[bool], reach: int) -> list[tuple[int, ...]]:
    """The K neighbours of a cell, itself included, by their offsets in cells per axis: up to `reach` away, and no token
    of a short axis twice."""
    ranges = []
    for tokens, wraps in zip(lattice, periodic, strict=True):
        before, after = ((tokens - 1) // 2, tokens // 2) if wraps else (tokens - 1, tokens - 1)
        ranges.append(range(-min(reach, before), min(reach, after) + 1))
    return list(itertools.product(*ranges))


def neighbours(
    lattice: Sequence[int], periodic: Sequence[bool], offsets: Sequence[tuple[int, ...]], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """((L, K) int64 numbers of the tokens at `offsets` from each cell, row-major; and (L, K) bool whether there is one,
    None: everywhere)."""
    index_lk = torch.zeros(1, 1, dtype=torch.int64, device=device)
    there_lk: Tensor | None = None
    for axis, (tokens, wraps) in enumerate(zip(lattice, periodic, strict=True)):
        along = torch.arange(tokens, device=device).repeat_interleave(math.prod(lattice[axis + 1 :]))
        along = along.repeat(math.prod(lattice[:axis]))[:, None] + constant(
            [offset[axis] for offset in offsets], device
        )
        if wraps:
            along = along.remainder(tokens)
        else:
            inside = (along >= 0) & (along < tokens)
            there_lk = inside if there_lk is None else there_lk & inside
            along = along.clamp(0, tokens - 1)
        index_lk = index_lk * tokens + along
    return index_lk, there_lk


class AnyPointDecoder(nn.Module):
    """The dynamic fields' normalised values, or change, at any places: cross-attention from the places to the latent
    tokens (Perceiver IO, arXiv 2107.14795), multiplied by a function of the place, an MLP, and a linear map per field.

    Nothing is absolute along periodic axes: fields that are shifted by whole cells give shifted values.

    Args:
        specs: the families.
        lattices: of each, tokens per axis.
        qk_rmsnorm: normalise queries and keys per head.
        reach: a query attends to the tokens up to `reach` cells away from its own along every axis (only training
            makes the values on either side of a cell's border agree); 0: to all.
        log_clamp: values beyond this, either way, grow logarithmically; None: they don't.
        zero: it starts at zero, so that a model that adds its output to the last frame starts as persistence.

    Raises:
        RecipeError: the heads can't be cut from the latent width, or are too narrow to be rotated along every axis.
    """

    def __init__(
        self,
        specs: Sequence[FamilySpec],
        lattices: Mapping[str, tuple[int, ...]],
        *,
        latent_dim: int,
        condition_dim: int,
        num_heads: int,
        qk_rmsnorm: bool,
        reach: int,
        log_clamp: float | None,
        zero: bool,
    ) -> None:
        super().__init__()
        most_axes = max(spec.dimensions for spec in specs)
        head_width = latent_dim // num_heads if num_heads > 0 else 0
        if head_width == 0 or latent_dim % num_heads or (reach == 0 and head_width % 2):
            raise RecipeError(
                f"the any-point decoder can't cut model.latent_dim, {latent_dim}, into {num_heads} heads of equal width"
                f"{'' if reach else ' that is even'}: make model.latent_dim a multiple of the width of the operator's "
                "heads, model.model_dim / model.num_heads"
            )
        if reach == 0 and head_width // 2 < most_axes:
            raise RecipeError(
                f"the any-point decoder's heads, of width {head_width} (model.latent_dim {latent_dim} / {num_heads} "
                f"heads), rotate a pair per axis, and a family has {most_axes}: lower model.num_heads, or set "
                "model.decoder_reach to 1 or more"
            )
        self._lattices = dict(lattices)
        self._any_spec = specs[0]
        self._num_heads, self._reach, self._log_clamp = num_heads, reach, log_clamp
        self._width = latent_dim
        names = sorted({spec.fields[number] for spec in specs for number in spec.dynamic})
        self._fields = {spec.name: [names.index(spec.fields[number]) for number in spec.dynamic] for spec in specs}
        self.modulation = zero_init(Linear32(condition_dim, 6 * latent_dim))
        self.place = Linear32(MAX_AXES * AXIS_FEATURES, latent_dim)
        self.query = nn.Linear(latent_dim, latent_dim)
        self.key = nn.Linear(latent_dim, latent_dim)
        self.value = nn.Linear(latent_dim, latent_dim)
        if not reach:
            # Queries and keys of the same direction, which only their rotation parts: a query starts by attending to
            # the tokens around it.
            nn.init.ones_(self.query.bias)
            nn.init.ones_(self.key.bias)
        # Of an offset, per axis: itself and its square, so that the nearest can be told from those on either side.
        self.offset = Linear32(2 * MAX_AXES, 2 * latent_dim, bias=False) if reach else None
        self.q_norm = RMSNorm32(head_width) if qk_rmsnorm else nn.Identity()
        self.k_norm = RMSNorm32(head_width) if qk_rmsnorm else nn.Identity()
        self.out = nn.Linear(latent_dim, latent_dim)
        self.gate = nn.Linear(latent_dim, latent_dim)
        nn.init.normal_(self.gate.weight, std=latent_dim**-0.5)
        self.mlp_in = nn.Linear(latent_dim, MLP_RATIO * latent_dim)
        self.mlp_out = nn.Linear(MLP_RATIO * latent_dim, latent_dim)
        self.head = FieldHead(names, latent_dim, 1, zero)

    def forward(self, z_bsld: Tensor, condition_bd: Tensor, spec: FamilySpec, queries: Queries) -> Tensor:
        """(B, C, *queries.shape) float32, C the dynamic fields, from latent tokens (B, S, L, latent_dim) and conditions
        (B, condition_dim)."""
        lattice, dtype = self._lattices[spec.name], self.mlp_in.weight.dtype
        shift_q, scale_q, shift_z, scale_z, shift_m, scale_m = self.modulation(condition_bd).chunk(6, dim=-1)
        features = query_features(queries, lattice, spec.periodic)
        x_bgvd = modulate(self.place(features), shift_q, scale_q)
        z_bsld = dynamic_streams(z_bsld, spec)
        batch, streams = z_bsld.shape[:2]
        q_bgvd = self.query(x_bgvd.to(dtype))
        k_nld = self.key(modulate(z_bsld, shift_z, scale_z).to(dtype)).flatten(0, 1)
        v_nld = self.value(z_bsld.to(dtype)).flatten(0, 1)  # not normalised: tokens' magnitudes are the fields'
        attend = self._attend_near if self._reach else self._attend_all
        read_bsqd = self.out(attend(q_bgvd, k_nld, v_nld, spec, queries)).unflatten(0, (batch, streams))
        # Multiplied by the place, so that a value can be a function of it with the tokens for coefficients.
        x_bsqd = x_bgvd.flatten(1, 2)[:, None]
        x_bsqd = x_bsqd + read_bsqd * (1 + self.gate(x_bsqd.to(dtype)))
        normed = modulate(x_bsqd, shift_m, scale_m).to(dtype)
        x_bsqd = x_bsqd + self.mlp_out(F.gelu(self.mlp_in(normed), approximate="tanh"))
        values_bqc = self.head(x_bsqd, self._fields[spec.name])[..., 0]
        if self._log_clamp is not None:
            values_bqc = log_clamp(values_bqc, self._log_clamp)
        return queries.restore(values_bqc.unflatten(1, queries.place_bgvd.shape[1:3]))

    def _attend_all(self, q_bgvd: Tensor, k_nld: Tensor, v_nld: Tensor, spec: FamilySpec, queries: Queries) -> Tensor:
        """(N, Q, D): every query attends to all tokens, with rotary positions (RoFormer, arXiv 2104.09864)."""
        lattice, periodic = self._lattices[spec.name], spec.periodic
        q_bhqe, k_nhle, v_nhle = (self._heads(x).transpose(1, 2) for x in (q_bgvd.flatten(1, 2), k_nld, v_nld))
        pairs = q_bhqe.shape[-1] // 2
        angles_bqr = place_angles(queries.place_bgvd.flatten(1, 2), periodic, pairs)[:, None]
        angles_lr = place_angles(positions(lattice, k_nld.device), periodic, pairs)
        q = rotate(self.q_norm(q_bhqe), angles_bqr.cos(), angles_bqr.sin()).to(v_nld.dtype)
        k = rotate(self.k_norm(k_nhle), angles_lr.cos(), angles_lr.sin()).to(v_nld.dtype)
        q = q.repeat_interleave(len(k) // len(q), dim=0)
        return F.scaled_dot_product_attention(q, k, v_nhle).transpose(1, 2).flatten(2)

    def _attend_near(self, q_bgvd: Tensor, k_nld: Tensor, v_nld: Tensor, spec: FamilySpec, queries: Queries) -> Tensor:
        """(N, Q, D): every query attends to the tokens around its group's cell."""
        assert self.offset is not None
        lattice, dtype, device = self._lattices[spec.name], v_nld.dtype, v_nld.device
        offsets = neighbour_offsets(lattice, spec.periodic, self._reach)
        index_lk, there_lk = neighbours(lattice, spec.periodic, offsets, device)
        offset_kf = _offset_features(offsets, self._reach, device)
        of_k, of_v = self.offset(offset_kf).to(dtype).chunk(2, dim=-1)
        # What the queries of a cell attend to, of every cell, so that scattered queries take it ready-made.
        k_nlkd, v_nlkd = (
            x_nld.index_select(1, index_lk.flatten()).unflatten(1, index_lk.shape) + of_x
            for x_nld, of_x in ((k_nld, of_k), (v_nld, of_v))
        )
        q_bgvhe = self.q_norm(self._heads(q_bgvd)).to(dtype)
        k_nlkd = self.k_norm(self._heads(k_nlkd)).to(dtype).flatten(3)
        cell_bg = torch.zeros_like(queries.cell_bgd[..., 0])
        for axis, tokens in enumerate(lattice):
            cell_bg = cell_bg * tokens + queries.cell_bgd[..., axis]
        folds = len(k_nld) // len(q_bgvd)
        parts = []
        # A GPU starts at most this many (group, head) pairs at a time.
        for q, cells in zip(*(x.split(MAX_PAIRS // self._num_heads, dim=1) for x in (q_bgvhe, cell_bg)), strict=True):
            q = q.repeat_interleave(folds, dim=0).transpose(2, 3)
            k, v = (self._heads(_take(x, cells)).transpose(2, 3) for x in (k_nlkd, v_nlkd))
            mask = None
            if there_lk is not None:
                mask = _take(there_lk[None], cells)[:, :, None, None].expand(-1, -1, self._num_heads, -1, -1)
                mask = mask.flatten(1, 2) if len(mask) == 1 else mask.repeat_interleave(folds, dim=0).flatten(1, 2)
            # Groups and heads in one dimension: fused attention takes no more than four.
            mixed = F.scaled_dot_product_attention(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), attn_mask=mask)
            parts.append(mixed.unflatten(1, (-1, self._num_heads)).transpose(2, 3).flatten(3).flatten(1, 2))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self._num_heads, -1))

    def probe(self) -> Tensor | float:
        """Zero, computed from every weight: see `idle_share`."""
        if not torch.is_grad_enabled():
            return 0.0
        spec, device = self._any_spec, self.mlp_in.weight.device
        z_bsld = torch.zeros(1, 1, math.prod(self._lattices[spec.name]), self._width, device=device)
        condition_bd = torch.zeros(1, self.modulation.in_features, device=device)
        place_bqd = torch.full((1, 1, spec.dimensions), 0.5, device=device)
        queries = point_queries(place_bqd, self._lattices[spec.name])
        return 0.0 * self(z_bsld, condition_bd, spec, queries).sum()


def _offset_features(offsets: Sequence[tuple[int, ...]], reach: int, device: torch.device) -> Tensor:
    """(K, 6) float32, of each axis: the offset in reaches, and its square."""
    absent = MAX_AXES - len(offsets[0])
    scaled = [along / reach for offset in offsets for along in (*offset, *(0,) * absent)]
    offset_ka = constant(scaled, device).reshape(len(offsets), MAX_AXES)
    return torch.cat([offset_ka, offset_ka.square()], dim=-1)


def _take(x_nl: Tensor, cell_bg: Tensor) -> Tensor:
    """(N, G, ...) of the cells (B, G) from (N, L, ...); B divides N (streams follow their sample), or N is 1."""
    batch = max(len(x_nl), len(cell_bg))
    if len(cell_bg) == 1:
        return x_nl.index_select(1, cell_bg[0])
    if len(x_nl) == 1:
        return x_nl[0].index_select(0, cell_bg.flatten()).unflatten(0, cell_bg.shape)
    starts = torch.arange(batch, device=x_nl.device)[:, None] * x_nl.shape[1]
    rows = cell_bg.repeat_interleave(batch // len(cell_bg), dim=0) + starts
    return x_nl.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)
