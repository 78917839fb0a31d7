"""What a wrong recipe is refused with: every problem, its path, the value found, what is allowed, what was meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ups_scale.errors import RecipeError
from ups_scale.recipe.load import from_dict, load, resolve

Refusal = Callable[..., list[str]]


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({"optimiser": {}}, 'optimiser: unknown key; did you mean "optimizer"?'),
        ({"optimizer": {"weight_decy": 0}}, 'optimizer.weight_decy: unknown key; did you mean "weight_decay"?'),
        ({"model": {"Depth": 3}}, 'model.Depth: unknown key; did you mean "depth"?'),
        ({"lr": 1e-3}, 'lr: unknown key here; did you mean "optimizer.lr"?'),
        ({"run": {"zzz": 1}}, 'run.zzz: unknown key; the keys of "run" are name, seed'),
        ({"engine": {"zero_stage": 9}}, "engine.zero_stage: found 9; allowed: an integer from 0 to 3"),
        ({"engine": {"zero_stage": 1.5}}, "engine.zero_stage: found 1.5; allowed: an integer from 0 to 3"),
        ({"engine": {"zero_stage": True}}, "engine.zero_stage: found true; allowed: an integer from 0 to 3"),
        ({"optimizer": {"lr": 0}}, "optimizer.lr: found 0; allowed: a number above 0 up to 1 or null"),
        ({"optimizer": {"betas": [0.9, 1]}}, "optimizer.betas[1]: found 1; allowed: a number from 0 to below 1"),
        (
            {"optimizer": {"betas": [0.9]}},
            "optimizer.betas: found [0.9]; allowed: a list of 2 numbers from 0 to below 1",
        ),
        (
            {"schedule": {"name": "Cosine"}},
            'schedule.name: found "Cosine"; allowed: one of "cosine", "constant", "linear", "wsd"; '
            'did you mean "cosine"?',
        ),
        ({"model": {"encoder": 4}}, 'model.encoder: found 4; allowed: one of "grid", "points", "auto"'),
        ({"conditioning": {"dt": 1}}, "conditioning.dt: found 1; allowed: true or false"),
        (
            {"logging": {"every_steps": None}},
            "logging.every_steps: found null; allowed: an integer from 1 to 100000000",
        ),
        ({"data": {"manifest": ""}}, 'data.manifest: found ""; allowed: a string of 1 to 1000 characters'),
        ({"run": {"name": "My Run"}}, 'run.name: found "My Run"; allowed: 1 to 64 characters of a-z, 0-9, _ and -'),
        ({"run": {"name": "run\n"}}, 'run.name: found "run\\n"; allowed: 1 to 64 characters of a-z, 0-9, _ and -'),
        ({"data": 3}, "data: found 3; allowed: an object"),
        ({"data": None}, "data: found null; allowed: an object"),
        ({"format": 2}, "format: found 2, but this version of ups_scale reads format 1; update ups_scale"),
        ({"format": "1"}, 'format: found "1"; this version of ups_scale reads format 1: write "format": 1'),
    ],
)
def test_schema_problem(refusal: Refusal, document: dict[str, Any], line: str) -> None:
    assert refusal(document) == [line]


@pytest.mark.parametrize(
    ("document", "line"),
    [
        (
            {"model": {"num_heads": 7}},
            "model.num_heads: found 7, which does not divide model.model_dim 128; nearest that fits: 8",
        ),
        (
            {"model": {"model_dim": 40, "num_heads": 4}},
            "model.model_dim: found 40, which with model.num_heads 4 gives heads of width 10; "
            "the width of a head must be a multiple of 4 (rotary pairs on two axes)",
        ),
        (
            {"engine": {"zero_stage": 0}},
            'engine.zero_stage: found 0 with engine.precision "bf16": DeepSpeed\'s bf16 optimizer at stage 0 takes a '
            'step at initialisation; use engine.zero_stage 1, or engine.precision "fp32"',
        ),
        (
            {"curriculum": {"horizons": [4, 4, 2]}},
            "curriculum.horizons: found [4, 4, 2]; must be strictly increasing, such as [2, 4]",
        ),
        (
            {"evaluate": {"horizons": [16, 1]}},
            "evaluate.horizons: found [16, 1]; must be strictly increasing, such as [1, 16]",
        ),
        (
            {"engine": {"accumulation": 6}},
            "engine.accumulation: found 6, which is no multiple of data.draws_per_step 4; use 8, or null to derive it",
        ),
        (
            {"data": {"batch_tokens": 8191}},
            "data.batch_tokens: found 8191; at least 8192 is needed for one window per draw: data.draws_per_step 4 x "
            "model.latent_tokens 64 x longest horizon 32",
        ),
        (
            {"gates": {"patience": 3}, "evaluate": {"every_steps": 0}},
            "gates.patience: found 3 with evaluate.every_steps 0: it is decided at validations; use null, or validate",
        ),
        (
            {"model": {"operator": "fno", "drop_path": 0}},
            'engine.precision: found "bf16" with model.operator "fno", whose Fourier transforms need float32: use '
            '"fp32"',
        ),
        (
            {"model": {"operator": "unet", "drop_path": 0, "model_dim": 100, "num_heads": 7}},
            'model.model_dim: found 100; model.operator "unet" normalises features in 8 groups: use a multiple of 8, '
            "such as 96",
        ),
        (
            {"model": {"operator": "pdetransformer", "drop_path": 0, "model_dim": 128}},
            'model.model_dim: found 128; model.operator "pdetransformer" comes in the widths 96, 192, 384',
        ),
        (
            {"model": {"operator": "unet"}},
            'model.drop_path: found 0.1, which model.operator "unet" does not have: use 0',
        ),
        (
            {"model": {"operator": "unet", "drop_path": 0, "prediction": "latent"}},
            'model.prediction: found "latent", which model.operator "unet" does not have: use "field"',
        ),
        (
            {"model": {"operator": "unet", "drop_path": 0}, "engine": {"zero_stage": 3}},
            'engine.zero_stage: found 3, which model.operator "unet" does not have: use 0 or 1 or 2',
        ),
        (
            {"model": {"modes": [16, 8, 4]}},
            'model.modes: found [16, 8, 4], which is for model.operator "fno", with model.operator "stacked"; use null',
        ),
        (
            {"model": {"target": "absolute", "prediction": "latent"}},
            'model.target: found "absolute" with model.prediction "latent", which adds its changes to the given frame: '
            'use "change"',
        ),
        (
            {"data": {"families": []}},
            "data.families: found []; allowed: a list of 1 to 1000 strings or null",
        ),
        (
            {"checkpoint": {"keep_every": 999}},
            "checkpoint.keep_every: found 999, less than checkpoint.every_steps 1000; use 0 or at least 1000",
        ),
        (
            {"schedule": {"name": "wsd", "warmup_ratio": 0.3, "decay_ratio": 0.8}},
            "schedule.warmup_ratio: found 0.3, which with schedule.decay_ratio 0.8 exceeds the whole run; "
            "their sum must be at most 1",
        ),
    ],
)
def test_rule_problem(refusal: Refusal, document: dict[str, Any], line: str) -> None:
    assert refusal(document) == [line]


@pytest.mark.parametrize(
    "document",
    [
        {"engine": {"zero_stage": 0, "precision": "fp32"}},
        {"schedule": {"name": "cosine", "warmup_ratio": 0.5, "decay_ratio": 1}},
        {"schedule": {"name": "wsd", "warmup_ratio": 0.5, "decay_ratio": 0.5}},
        {"checkpoint": {"keep_every": 0}},
        {"checkpoint": {"every_steps": 10, "keep_every": 10}},
        {"engine": {"accumulation": 8}},
        {"data": {"batch_tokens": 8192}},
        {"schedule": {"steps": 1e4}},
    ],
)
def test_what_a_rule_allows(write: Callable[..., Path], document: dict[str, Any]) -> None:
    load(write(document))


def test_all_problems_at_once_and_rules_only_on_valid_values(refusal: Refusal) -> None:
    document = {
        "optimiser": {},
        "data": 3,
        "model": {"num_heads": 7, "latent_tokens": "many"},
        "curriculum": {"horizons": [4, "a"]},
        "evaluate": {"horizons": [4, 1]},
        "engine": {"zero_stage": 9, "accumulation": 3},
    }
    assert [line.partition(": ")[0] for line in refusal(document, "foo", "engine.micro_batch=0")] == [
        "--set foo",
        "optimiser",
        "data",
        "model.latent_tokens",
        "curriculum.horizons[1]",
        "engine.zero_stage",
        "engine.micro_batch",
        "model.num_heads",
        "evaluate.horizons",
    ]


def test_long_values_are_cut(refusal: Refusal) -> None:
    (line,) = refusal({"run": {"name": "X" * 5000}})
    assert len(line) < 200


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{\n  "run": {"seed": 1,}\n}', "line 2, column 21: malformed JSON: "),
        ("", "line 1, column 1: malformed JSON: Expecting value"),
        ('{"optimizer": {"lr": NaN}}', "malformed JSON: NaN is not JSON; write a finite number"),
        ('{"optimizer": {"lr": -Infinity}}', "malformed JSON: -Infinity is not JSON; write a finite number"),
        ('{"optimizer": {"lr": 1e999}}', "optimizer.lr: found Infinity; allowed: a number above 0 up to 1 or null"),
        (
            '{"run": {"seed": 1, "seed": 2}, "run": {}}',
            'keys stated more than once in one object: "seed", "run"; keep one of each',
        ),
        ("[1]", "found [1]; a recipe is a JSON object"),
        ("[" * 100000, "malformed JSON: "),
        ('{"run": {"seed": ' + "9" * 5000 + "}}", "malformed JSON: "),
    ],
)
def test_malformed_file(refusal: Refusal, text: str, line: str) -> None:
    (found,) = refusal(text)
    assert found.startswith(line)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.json: 1 problem\n  no such file; check the path"):
        load(tmp_path / "none.json")
    with pytest.raises(RecipeError, match="cannot be read: "):
        load(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"description": "\xe9"}')
    with pytest.raises(RecipeError, match=r"not UTF-8 text \(byte 17\)"):
        load(tmp_path / "latin.json")


def test_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    (tmp_path / "marked.json").write_bytes(b'\xef\xbb\xbf{"run": {"name": "marked"}}')
    assert load(tmp_path / "marked.json").run.name == "marked"


def test_from_dict_checks_again(write: Callable[..., Path]) -> None:
    resolved = resolve(write({}))
    resolved["engine"]["zero_stage"] = 7
    with pytest.raises(RecipeError, match=r"^runs/x/recipe\.json: 1 problem\n  engine\.zero_stage: found 7"):
        from_dict(resolved, "runs/x/recipe.json")
    with pytest.raises(RecipeError, match="resolved recipe stands on its own"):
        from_dict({"extends": "base.json"})
    with pytest.raises(RecipeError, match=r"recipe: found \[\]; a recipe is a JSON object"):
        from_dict([])  # type: ignore[arg-type]
