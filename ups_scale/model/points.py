"""Point encoder: values at points, wherever they lie, become tokens of the latent lattice by way of supernodes
(Universal Physics Transformers, arXiv 2402.12365)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ups_scale.model.attention import RMSNorm32, attend
from ups_scale.model.constants import constant
from ups_scale.model.embed import MAX_AXES, Linear32, wide
from ups_scale.model.encoder import FieldProjection, MissingFrames
from ups_scale.model.lattice import positions
from ups_scale.model.layout import inputs
from ups_scale.model.neighbours import Neighbours, canonical_order, choose_supernodes, nearest, within
from ups_scale.physics.families import FamilySpec

# Dimensions: b sample, t context frame, c field, p point, m supernode, k neighbour, l token, s stream, d latent width,
# w width of a message, h head, e head width, x space axis, f feature of a place.

OCTAVES = 3
NUM_FEATURES = MAX_AXES * (1 + 2 * OCTAVES)
MESSAGE_RATIO = 2
MLP_RATIO = 2


def place_features(place: Tensor) -> Tensor:
    """(..., F) float32 features of places or ways (..., d) of about the size 1, smooth and bounded. Those of axes that
    a domain lacks are zero, so that the weights serve 1D to 3D."""
    place = place.float()
    parts = [place.tanh()]
    for octave in range(OCTAVES):
        angle = place * (math.pi / 2 * 2**octave)
        parts += [angle.sin(), angle.cos()]
    features = torch.stack(parts, dim=-1).flatten(-2)
    return F.pad(features, (0, NUM_FEATURES - features.shape[-1]))


@dataclass(frozen=True)
class Edges:
    """From which rows each of N receivers takes something: the geometry of `Neighbours` as the network needs it.

    Attributes:
        index_bnk: (B, N, K) int64 numbers of the senders.
        valid_bnk: (B, N, K) bool.
        features_bnkf: (B, N, K, F) float32 features of the way from receiver to sender.
    """

    index_bnk: Tensor
    valid_bnk: Tensor
    features_bnkf: Tensor

    @classmethod
    def of(cls, found: Neighbours) -> Edges:
        return cls(found.index_bmk, found.valid_bmk, place_features(found.offset_bmkd))


@dataclass(frozen=True)
class Graph:
    """Who hears whom, of B point sets, or of one (B = 1) that all samples share. Made once per rollout.

    Attributes:
        supernode_bm: (B, M) int64, the points that are supernodes.
        messages: from the points near a supernode to it.
        pooling: from the supernodes near a token to it.
        token_lf: (L, F) float32 features of where the tokens lie, zero along periodic axes.
        mask_bp: (B, P) bool, which points have a value; None: all.
    """

    supernode_bm: Tensor
    messages: Edges
    pooling: Edges
    token_lf: Tensor
    mask_bp: Tensor | None


def take(rows_bspd: Tensor, index_bn: Tensor) -> Tensor:
    """(B, S, ..., D), the rows of each sample and stream that `index_bn` (B or 1, ...) numbers."""
    batch, streams, points, width = rows_bspd.shape
    starts = torch.arange(batch * streams, device=rows_bspd.device) * points
    index = index_bn[:, None] + starts.reshape(batch, streams, *(1,) * (index_bn.ndim - 1))
    return rows_bspd.reshape(-1, width).index_select(0, index.flatten()).reshape(*index.shape, width)


class MessagePassing(nn.Module):
    """Supernodes from the embedded points: the mean over a supernode's neighbours of an MLP of what they hold and where
    they lie, added to what it holds itself; then an MLP. In float32.

    The MLPs' products run over points or supernodes; per neighbour there is one, of the few features of its place.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        message = max(width // MESSAGE_RATIO, 1)
        self.send = Linear32(width, message)
        self.place = Linear32(NUM_FEATURES, message, bias=False)
        self.receive = Linear32(message, width)
        self.norm = RMSNorm32(width)
        self.mlp_in = Linear32(width, MLP_RATIO * width)
        self.mlp_out = Linear32(MLP_RATIO * width, width)

    def forward(self, points_bspd: Tensor, graph: Graph) -> Tensor:
        """(B, S, M, D) float32 from the embedded points (B, S, P, D)."""
        edges = graph.messages
        sent_bsmkw = take(self.send(points_bspd), edges.index_bnk)
        sent_bsmkw += self.place(edges.features_bnkf)[:, None]  # in place: these are the largest tensors here
        sent_bsmkw = F.gelu(sent_bsmkw, approximate="tanh")
        share_bmk = edges.valid_bnk / edges.valid_bnk.sum(dim=-1, keepdim=True)
        heard_bsmw = (share_bmk.to(sent_bsmkw.dtype)[:, None, :, None] @ sent_bsmkw)[..., 0, :]
        nodes_bsmd = take(points_bspd, graph.supernode_bm) + self.receive(heard_bsmw)
        return nodes_bsmd + self.mlp_out(F.gelu(self.mlp_in(self.norm(nodes_bsmd)), approximate="tanh"))


class Pooling(nn.Module):
    """Latent tokens from supernodes: Perceiver cross-attention (arXiv 2107.14795) of every token to the supernodes
    nearest to its anchor; then an MLP. In float32. Where a supernode lies from the anchor is added to its key and
    scales its value, so that a token can hold differences and moments of a field about its anchor as well as means.

    The tokens' queries differ by their places along axes that aren't periodic, and along periodic ones not at all.
    """

    def __init__(self, width: int, num_heads: int, qk_rmsnorm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.content = nn.Parameter(torch.randn(width) / math.sqrt(width))
        self.position = Linear32(NUM_FEATURES, width, bias=False)
        self.token_norm = RMSNorm32(width)
        self.node_norm = RMSNorm32(width)
        self.query = Linear32(width, width)
        self.key = Linear32(width, width)
        self.value = Linear32(width, width)
        self.key_place = Linear32(NUM_FEATURES, width, bias=False)
        self.value_place = Linear32(NUM_FEATURES, width, bias=False)
        self.q_norm = RMSNorm32(width // num_heads) if qk_rmsnorm else nn.Identity()
        self.k_norm = RMSNorm32(width // num_heads) if qk_rmsnorm else nn.Identity()
        self.out = Linear32(width, width)
        self.mlp_norm = RMSNorm32(width)
        self.mlp_in = Linear32(width, MLP_RATIO * width)
        self.mlp_out = Linear32(MLP_RATIO * width, width)

    def forward(self, nodes_bsmd: Tensor, graph: Graph) -> Tensor:
        """(B, S, L, D) float32 from supernodes (B, S, M, D)."""
        batch, streams = nodes_bsmd.shape[:2]
        edges = graph.pooling
        tokens_ld = wide(self.content) + self.position(graph.token_lf)
        q_lhe = self.q_norm(self.query(self.token_norm(tokens_ld)).unflatten(-1, (self.num_heads, -1)))
        # Values are not normalised: they hold how large the fields are.
        key_bslkd = take(self.key(self.node_norm(nodes_bsmd)), edges.index_bnk)
        key_bslkd += self.key_place(edges.features_bnkf)[:, None]
        value_bslkd = take(self.value(nodes_bsmd), edges.index_bnk)
        value_bslkd = torch.addcmul(value_bslkd, value_bslkd, self.value_place(edges.features_bnkf)[:, None])
        # Every token has keys of its own, so tokens take the place of samples: one query each.
        k_nkhe, v_nkhe = (rows.flatten(0, 2).unflatten(-1, (self.num_heads, -1)) for rows in (key_bslkd, value_bslkd))
        q_nh1e = q_lhe[None, :, :, None].expand(batch * streams, -1, -1, -1, -1).flatten(0, 1)
        mask_n11k = None
        if graph.mask_bp is not None:
            mask_n11k = edges.valid_bnk[:, None].expand(batch, streams, -1, -1).flatten(0, 2)[:, None, None]
        attended_nh1e = attend(q_nh1e, self.k_norm(k_nkhe).transpose(1, 2), v_nkhe.transpose(1, 2), mask_n11k)
        tokens_bsld = tokens_ld + self.out(attended_nh1e.flatten(1).unflatten(0, (batch, streams, -1)))
        return tokens_bsld + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(tokens_bsld)), approximate="tanh"))


class PointEncoder(nn.Module):
    """Tokens from the normalised context frames at points: a grid's nodes, a mesh's, or particles. Each field has its
    own projection, shared by families of 1 to 3 dimensions like all other weights; the projections of a point's fields
    are summed, or give a stream of tokens each (`channel_separated`).

    Args:
        specs: the families.
        lattices: the latent lattice of each, by name.
        supernodes: how many of the points gather what lies around them (all, of a set that has fewer).
        supernode_radius: how far around, in mean distances between supernodes.
        neighbours: the most points a supernode takes from, and supernodes a token takes from.
    """

    def __init__(
        self,
        specs: Sequence[FamilySpec],
        lattices: Mapping[str, tuple[int, ...]],
        *,
        latent_dim: int,
        context_frames: int,
        channel_separated: bool,
        supernodes: int,
        supernode_radius: float,
        neighbours: int,
        num_heads: int,
        qk_rmsnorm: bool,
    ) -> None:
        super().__init__()
        self._lattices = dict(lattices)
        self._separated = channel_separated
        self._supernodes, self._radius, self._neighbours = supernodes, supernode_radius, neighbours
        names = sorted({spec.fields[number] for spec in specs for number in inputs(spec)})
        self._fields = {spec.name: [names.index(spec.fields[number]) for number in inputs(spec)] for spec in specs}
        self.projection = FieldProjection(names, context_frames, latent_dim)
        self.missing = MissingFrames(context_frames, latent_dim) if context_frames > 1 else None
        self.messages = MessagePassing(latent_dim)
        self.pooling = Pooling(latent_dim, num_heads, qk_rmsnorm)

    @torch.no_grad()
    def graph(self, place_bpd: Tensor, spec: FamilySpec, mask_bp: Tensor | None = None) -> Graph:
        """The graph of point sets of one family, for `forward`; supernodes are drawn anew at each call in training.

        Args:
            place_bpd: (B, P, d) float32, fractions of the domain's extent; (1, P, d) if all samples have the same.
            spec: the family.
            mask_bp: (B, P) bool, which points have a value; None: all. The others have no part in the result.
        """
        periodic, lattice = spec.periodic, self._lattices[spec.name]
        place_bpd = within(place_bpd.float(), periodic)
        if mask_bp is not None:
            place_bpd = place_bpd.expand(len(mask_bp), -1, -1)
        order_bp = canonical_order(place_bpd, mask_bp)
        supernode_bm, used_bm = choose_supernodes(order_bp, self._supernodes, mask_bp, resample=self.training)
        axes = place_bpd.shape[-1]
        node_bmd = place_bpd.gather(1, supernode_bm[..., None].expand(-1, -1, axes))

        # Distances in units of the radius, in a domain of its own proportions.
        lengths = [high - low for low, high in spec.extents]
        radius = self._radius * (math.prod(lengths) / supernode_bm.shape[1]) ** (1 / axes)
        near_nodes = nearest(
            node_bmd, place_bpd, [length / radius for length in lengths], periodic, self._neighbours, 1.0, mask_bp
        )
        token_ld = positions(lattice, place_bpd.device)
        near_tokens = nearest(
            token_ld.expand(len(place_bpd), -1, -1), node_bmd, lattice, periodic, self._neighbours, None,
            None if mask_bp is None else used_bm,
        )  # fmt: skip
        return Graph(
            supernode_bm=supernode_bm,
            messages=Edges.of(near_nodes),
            pooling=Edges.of(near_tokens),
            token_lf=_position_features(token_ld, periodic),
            mask_bp=mask_bp,
        )

    def forward(self, u_btcp: Tensor, spec: FamilySpec, graph: Graph, seen_bt: Tensor | None = None) -> Tensor:
        """(B, S, L, latent_dim) float32 tokens.

        Args:
            u_btcp: (B, T, C, P) normalised values of all the family's fields at the points.
            spec: the family.
            graph: of these points, from `graph`.
            seen_bt: (B, T) bool, which frames are given (the others hold zeros); None: all.
        """
        fields = inputs(spec)
        if len(fields) < u_btcp.shape[2]:
            u_btcp = u_btcp[:, :, constant(fields, u_btcp.device)]
        if graph.mask_bp is not None:
            u_btcp = torch.where(graph.mask_bp[:, None, None], u_btcp, 0.0)
        points_bspd = self.projection(u_btcp.permute(0, 3, 2, 1), self._fields[spec.name], self._separated)
        if self.missing is not None:
            if seen_bt is None:
                seen_bt = torch.ones(u_btcp.shape[:2], dtype=torch.bool, device=u_btcp.device)
            points_bspd = points_bspd + self.missing(seen_bt)
        return self.pooling(self.messages(points_bspd, graph), graph)

    def probe(self) -> Tensor | float:
        """Zero, computed from every weight: see `idle_share` of the grid encoder."""
        if not torch.is_grad_enabled():
            return 0.0
        device = self.pooling.content.device
        number = torch.zeros(1, 1, 1, dtype=torch.int64, device=device)
        edges = Edges(number, number == 0, torch.zeros(1, 1, 1, NUM_FEATURES, device=device))
        graph = Graph(number[0], edges, edges, torch.zeros(1, NUM_FEATURES, device=device), None)
        points_bspd = torch.zeros(1, 1, 1, self.pooling.out.out_features, device=device)
        if self.missing is not None:
            frames = len(self.missing.weight)
            points_bspd = points_bspd + self.missing(torch.zeros(1, frames, dtype=torch.bool, device=device))
        return 0.0 * (self.projection.probe() + self.pooling(self.messages(points_bspd, graph), graph).sum())


def _position_features(token_ld: Tensor, periodic: Sequence[bool]) -> Tensor:
    """(L, F) features of the tokens' places, zero along the periodic axes."""
    keep_d = constant([0.0 if wraps else 1.0 for wraps in periodic], token_ld.device)
    per_axis = F.pad(keep_d, (0, MAX_AXES - len(periodic)))
    return place_features(2 * token_ld - 1) * per_axis.repeat_interleave(NUM_FEATURES // MAX_AXES)
