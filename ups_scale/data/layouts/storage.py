"""Whether what an HDF5 array is to hold was written, and can be read here."""

from __future__ import annotations

import math
from pathlib import Path

import h5py

from ups_scale.data.layouts.containers import MAX_CHUNK_BYTES, num_values
from ups_scale.data.source import hdf5_reads
from ups_scale.errors import DataError


def check_written(path: Path, array: h5py.Dataset) -> None:
    """Raises a `DataError` if parts of an array were never written: they would read as zeros."""
    with hdf5_reads(path, str(array.name)):
        if array.chunks:
            expected = math.prod(-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True))
            written = array.id.get_num_chunks()
            what = "chunks"
        else:
            expected, written = array.nbytes, array.id.get_storage_size()
            what = "bytes"
        if written < expected:
            raise DataError(
                f"{path}: of {array.name} only {written:,} of {expected:,} {what} were ever written; whatever made the "
                "file was stopped: make it again"
            )


def check_storage(path: Path, array: h5py.Dataset) -> None:
    """Raises a `DataError` if an array's chunks can't be unpacked here."""
    with hdf5_reads(path, str(array.name)):
        refusal = not_unpacked(array)
    if refusal:
        raise DataError(f"{path}: {array.name} is {refusal}")


def not_unpacked(array: h5py.Dataset) -> str | None:
    """What keeps an array's chunks from being unpacked, and what to do: a filter that isn't here, or their size."""
    properties = array.id.get_create_plist()
    codes = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    missing = [code for code in codes if not h5py.h5z.filter_avail(code)]
    if missing:
        return (
            f"compressed by HDF5 filter {missing[0]}, which isn't installed here; write it with gzip (h5repack -f "
            "GZIP=4 old new)"
        )
    if array.chunks and num_values(array.chunks) * array.dtype.itemsize > MAX_CHUNK_BYTES:
        return (
            f"stored in chunks of {array.chunks}, more than {MAX_CHUNK_BYTES / 2**20:.0f} MiB each, which must be read "
            "whole; write it in smaller ones (h5repack -l CHUNK=...)"
        )
    return None
