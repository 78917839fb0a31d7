import pytest
import torch

from ups_scale.data.batch import FieldBatch
from ups_scale.errors import DataError


def make(**changes):
    parts = {"u_btcx": torch.zeros(2, 3, 1, 8), "parameters_bp": torch.zeros(2, 1), "dt_bt": torch.zeros(2, 2)}
    return FieldBatch(family="a", **{**parts, "keys": ("k0", "k1"), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"u_btcx": torch.tensor(0.0)}, r"batch of a: u_btcx needs axes \(b, t, c, x\.\.\.\), has \(\)"),
        ({"u_btcx": torch.zeros(2, 3, 8)}, r"u_btcx needs axes .* has \(2, 3, 8\)"),
        ({"parameters_bp": torch.zeros(3, 1)}, "u_btcx has 2 samples but parameters_bp has 3"),
        ({"dt_bt": torch.zeros(1, 2)}, "u_btcx has 2 samples but dt_bt has 1"),
        ({"dt_bt": torch.zeros(2)}, r"dt_bt has shape \(2,\); u_btcx of 3 frames needs \(2, 2\)"),
        ({"dt_bt": torch.zeros(2, 3)}, r"dt_bt has shape \(2, 3\); u_btcx of 3 frames needs \(2, 2\)"),
        ({"mask_btcx": torch.ones(2, 3, 1, 7)}, r"mask_btcx has shape \(2, 3, 1, 7\), u_btcx \(2, 3, 1, 8\)"),
        ({"keys": ("k0",)}, "u_btcx has 2 samples but keys has 1"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        make(**changes)


def test_to_moves_every_tensor():
    batch = make(mask_btcx=torch.ones(2, 3, 1, 8, dtype=torch.bool)).to("meta")
    tensors = (batch.u_btcx, batch.parameters_bp, batch.dt_bt, batch.mask_btcx)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert make().to("meta").mask_btcx is None
