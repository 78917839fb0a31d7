"""The energy that a device has used, where it has a meter."""

from __future__ import annotations

from pathlib import Path

import torch

RAPL = Path("/sys/class/powercap")
"""Linux' meters of Intel's and AMD's processors; readable by root only on many systems."""


def joules(device: torch.device) -> float | None:
    """The energy the device has used since some moment in the past, in J; None where no meter can be read.

    A GPU's own meter (NVML, from Volta on, needs the package nvidia-ml-py), or those of all processor packages: what
    else runs there is in it. Differences of two readings are meant; one over a processor's may be wrong by a wrap of
    its counter, so negative ones are to be thrown away.
    """
    return _of_gpu(device) if device.type == "cuda" else _of_processors()


def _of_gpu(device: torch.device) -> float | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
    except pynvml.NVMLError:
        return None


def _of_processors() -> float | None:
    try:
        packages = [zone for zone in RAPL.glob("intel-rapl:*") if (zone / "name").read_text().startswith("package")]
        readings = [int((zone / "energy_uj").read_text()) for zone in packages]
    except (OSError, ValueError):
        return None
    return sum(readings) / 1e6 if readings else None
