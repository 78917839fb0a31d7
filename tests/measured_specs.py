"""Small descriptions of data for tests of metrics."""

from ups_scale.physics.families import FamilySpec
from ups_scale.physics.invariants import quantities


def spec_of(name="burgers_1d", grid=(16,), kind="periodic", fields=("u",), **more):
    """A family on a grid over the unit cube, the same kind of boundary on all sides."""
    asked = {
        "name": name,
        "fields": fields,
        "units": ("1",) * len(fields),
        "parameters": (),
        "grid": grid,
        "extents": ((0.0, 1.0),) * len(grid),
        "boundaries": ((kind, kind),) * len(grid),
        "u_rms": (1.0,) * len(fields),
        "delta_rms": (0.1,) * len(fields),
        "dt": 0.1,
    }
    return FamilySpec(**(asked | more))


def conserved(spec):
    """The names of what is constant in time under the data's boundaries."""
    return tuple(dict.fromkeys(quantity.name for quantity in quantities(spec) if quantity.is_closed))
