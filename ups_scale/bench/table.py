"""The figures of `tools/bench.py data` as text."""

from __future__ import annotations

from ups_scale.bench.data import Measured

WHAT = {
    "memcpy": "one thread reading into batches / copying memory into them",
    "memcpy_first_look": "the same when every frame is met for the first time",
    "memcpy_stream": "the stream of micro-batches, planned and read in one thread / copying memory",
    "memcpy_stream_ahead": "the same, read ahead by its threads, which share the cores and Python's one lock",
    "h5py": "one thread reading / h5py's slices of contiguous arrays, looked up by name",
    "h5py_kept_arrays": "the same, looked up once and kept",
    "webdataset": "the stream of micro-batches / a WebDataset pipeline",
    "the_well": "the stream of micro-batches / The Well's WellDataset",
    "streaming": "the stream of micro-batches / MosaicML's StreamingDataset",
    "two_ranks": "two processes reading / one, a core each",
    "two_memcpy": "two processes copying memory / one: the limit of the line above",
}


def render(measured: Measured) -> str:
    """Medians over the rounds with their quartiles, then what they were measured with."""
    settings, environment = measured.settings, measured.environment
    window_bytes = 4 * settings.window * settings.grid**2 * 4
    rows = [("windows per second", "", "")]
    for name, figure in measured.rates.items():
        speed = f"{figure.median * window_bytes / 1e9:.2g} GB/s"
        rows.append((f"  {name}", str(figure), speed))
    rows.append(("ratios", "", ""))
    for name, figure in measured.ratios.items():
        rows.append((f"  {name}", str(figure), f"{figure.low:.3g}-{figure.high:.3g}  {WHAT[name]}"))
    for name, reason in measured.absent.items():
        rows.append((f"  {name}", "-", reason))
    rows += [
        ("planning, us per window", str(measured.plan_us), ""),
        ("resuming at position 1e9, s", str(measured.resume_s), ""),
        ("sharding, MB/s of float32 input", str(measured.sharding_mb_per_s), "two workers"),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{what:{widths[0]}}  {value:>{widths[1]}}  {note}".rstrip() for what, value, note in rows]
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    lines += [
        "",
        f"{settings.rounds} rounds, {settings.threads} reading threads, micro-batches of {settings.batch} windows",
        f"{environment['platform']}, {environment['cpus']} CPUs, Python {environment['python']}, {packages}",
        f"commit {environment['commit']}, load before {measured.load_before}, after {measured.load_after}",
    ]
    return "\n".join(lines)
