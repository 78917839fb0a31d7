"""The C++ that DeepSpeed compiles at run time: built once, into the environment's own folder, with a message.

python -m ups_scale.engine.ops        what `make setup` runs
"""

from __future__ import annotations

import fcntl
import os
import sys
import sysconfig
from pathlib import Path

import torch


def prepare() -> None:
    """Builds what DeepSpeed's CPU communication compiles, unless it is there. Call before DeepSpeed starts.

    Several ranks may call it at once: one builds, the others wait for it. Nothing is compiled on a GPU machine.
    DeepSpeed would otherwise compile at the first start without a word, and wait for ever for the lock that a killed
    build left behind.

    Raises:
        RuntimeError: the compiler failed; its output is printed.
    """
    if torch.cuda.is_available():
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions"))
    # ninja and the compiler are found by PATH, also where the environment was not activated.
    scripts = sysconfig.get_path("scripts")
    if scripts not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = scripts + os.pathsep + os.environ.get("PATH", "")
    folder = Path(os.environ["TORCH_EXTENSIONS_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held by nobody dead: whoever has it knows that no other build of ours runs
        built = list(folder.glob("**/deepspeed_shm_comm/*.so"))
        for stale in folder.glob("**/deepspeed_shm_comm/lock"):
            stale.unlink()
        if built:
            return
        print("Compiling DeepSpeed's shared-memory communication (once, about half a minute) ...", flush=True)
        from deepspeed.accelerator import get_accelerator

        get_accelerator().create_op_builder("ShareMemCommBuilder").load(verbose=False)
        print(f"Compiled into {folder}", flush=True)


if __name__ == "__main__":
    prepare()
