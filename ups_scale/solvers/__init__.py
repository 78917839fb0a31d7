"""The embedded data source: small torch solvers, the families they generate, and the HDF5 files they are written to."""

from ups_scale.solvers.generate import Trajectories, generate_batches, generate_family
from ups_scale.solvers.setups import GENERATOR_VERSION, SETUPS, Setup, default_specs

__all__ = [
    "GENERATOR_VERSION",
    "SETUPS",
    "Setup",
    "Trajectories",
    "default_specs",
    "generate_batches",
    "generate_family",
]
