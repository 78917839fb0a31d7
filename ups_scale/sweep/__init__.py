"""Sweeps: a coarse grid, a local search around its best, and a full evaluation of the winners, from one journal."""
