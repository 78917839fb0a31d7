"""Data that many tests read: made once, never written to."""

import os
import shutil
from pathlib import Path

# Before torch and the processes that tests start: two libraries with a thread per core each get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch
from synthetic import Written, make_shards, write_sources

torch.set_num_threads(1)
# A loaded machine is slow now and then; that is no finding.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Written]:
    """What the files of `source_folder` hold, by (family, split)."""
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session")
def source_folder(sources: dict[tuple[str, str], Written]) -> Path:
    """Folder of PDEBench-layout HDF5 files, three families: 12 train, 4 valid, 4 test trajectories of 12 frames."""
    return next(iter(sources.values())).path.parent


@pytest.fixture(scope="session")
def shard_folder(source_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `manifest.json` and several shards per split of `source_folder`; for reading only."""
    folder = tmp_path_factory.mktemp("shards")
    make_shards(source_folder, folder)
    return folder


@pytest.fixture
def own_shards(shard_folder: Path, tmp_path: Path) -> Path:
    """A copy of `shard_folder` to damage."""
    return Path(shutil.copytree(shard_folder, tmp_path / "shards"))
