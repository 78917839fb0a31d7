"""Imports go one way: a module may import its own tier and those before it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIERS = (
    ("errors", "distributed", "atomic"),
    ("recipe", "physics"),
    ("solvers", "data", "model"),
    ("objective", "metrics"),
    ("engine", "observe"),
    ("checkpoint", "rollout"),
    ("train",),
    ("evaluate",),
    ("sweep",),
    ("bench",),
    ("launch", "tools"),
)
TIER = {name: number for number, names in enumerate(TIERS) for name in names}
# Within the third tier: what the model is does not depend on how data are stored, nor the other way round.
FORBIDDEN = {"data": ("ups_scale.model",), "model": ("ups_scale.data", "deepspeed"), "solvers": ("deepspeed",)}
PACKAGE = "ups_scale"


def modules():
    return sorted(p for folder in (PACKAGE, "launch", "tools") for p in (ROOT / folder).rglob("*.py"))


def part_of(path: Path) -> str | None:
    """The first folder or module under the package; None for the package's own `__init__`."""
    inner = path.relative_to(ROOT).with_suffix("").parts
    name = inner[1] if inner[0] == PACKAGE else inner[0]
    return None if name == "__init__" else name


def imported(path: Path, source: str | None = None) -> set[str]:
    """Dotted names of everything that a module imports, wherever in it; relative imports are made absolute."""
    package = list(path.relative_to(ROOT).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(source if source is not None else path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (start, node.module or "") if part)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def violations(path: Path, source: str | None = None) -> list[str]:
    own = part_of(path)
    wrong = []
    for name in sorted(imported(path, source)):
        parts = name.split(".")
        if own and any(name == start or name.startswith(f"{start}.") for start in FORBIDDEN.get(own, ())):
            wrong.append(f"{own}/ must not import {name}")
        other = parts[1] if parts[0] == PACKAGE and len(parts) > 1 else parts[0]
        if other not in TIER or (parts[0] != PACKAGE and other not in ("launch", "tools")):
            continue
        if own is None or TIER[other] > TIER[own]:
            wrong.append(f"{own or PACKAGE} imports {name}, which comes after it")
    return wrong


def test_every_part_has_its_tier():
    assert {part_of(path) for path in modules()} - {None} <= set(TIER)
    assert len(modules()) > 20


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    assert violations(path) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ups_scale/data/plan.py", "from ups_scale.model.build import build_model"),
        ("ups_scale/data/plan.py", "from ups_scale import model"),
        ("ups_scale/data/plan.py", "from ..model import build"),
        ("ups_scale/data/plan.py", "from ups_scale.train import loop"),
        ("ups_scale/data/plan.py", "def f():\n    import tools.shard"),
        ("ups_scale/model/build.py", "import deepspeed.ops"),
        ("ups_scale/model/build.py", "from deepspeed import zero"),
        ("ups_scale/model/build.py", "import ups_scale.data.batch"),
        ("ups_scale/errors.py", "from ups_scale.recipe.types import Recipe"),
        ("ups_scale/__init__.py", "from ups_scale import errors"),
    ],
)
def test_the_check_finds_violations(path, source):
    assert violations(ROOT / path, source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ups_scale/data/plan.py", "from ups_scale.errors import DataError\nimport ups_scale\nimport numpy"),
        ("ups_scale/data/plan.py", "from .reader import ShardReader\nfrom ..physics import families"),
        ("ups_scale/engine/setup.py", "import deepspeed\nfrom ups_scale.model.build import build_model"),
        ("tools/shard.py", "from ups_scale.evaluate import suite"),
    ],
)
def test_the_check_lets_the_rest_pass(path, source):
    assert violations(ROOT / path, source) == []
