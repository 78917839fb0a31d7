"""What a run was made with: versions, hardware, commit and the changes on top of it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "torch",
    "deepspeed",
    "accelerate",
    "webdataset",
    "h5py",
    "numpy",
    "safetensors",
    "jsonschema",
    "tensorboard",
)
SOURCE = Path(__file__).resolve().parents[2]


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(SOURCE), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def commit() -> str | None:
    """The commit of the checkout this package lies in, with `-dirty` if tracked files differ; None outside of one."""
    head = _git("rev-parse", "HEAD") if (SOURCE / ".git").exists() else None
    if head is None:
        return None
    return head.strip() + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")


def git_diff() -> str:
    """The uncommitted changes of tracked files, as a patch; empty when there are none."""
    return (_git("diff", "HEAD") or "") if (SOURCE / ".git").exists() else ""


def versions(*packages: str) -> dict[str, str | None]:
    """Installed version by name; None for what is not installed."""
    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def describe(world_size: int) -> dict[str, Any]:
    """Versions, hardware and commit as plain JSON values."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "packages": versions(*PACKAGES),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": gpus,
        "world_size": world_size,
        "torch_threads": torch.get_num_threads(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": commit(),
    }
