"""What is found out about an engine's options before anything starts."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from elth_dist.engines.options import EngineOptions
from elth_dist.errors import UserError


def check(config: dict[str, Any] | None = None, *, stage: int = 2, precision: str = "bf16", **more: Any) -> None:
    options = EngineOptions(name="deepspeed", zero_stage=stage, deepspeed_config=config)
    options.check(
        global_batch=256,
        accumulate=2,
        world_size=4,
        precision=precision,
        compile_model=more.pop("compile_model", False),
    )


def test_a_deepspeed_file_becomes_part_of_the_configuration(tmp_path: Path) -> None:
    content = {"zero_optimization": {"overlap_comm": True}}
    file = tmp_path / "ds.json"
    file.write_text(json.dumps(content))
    options = EngineOptions(name="deepspeed", deepspeed_config=str(file))
    assert options.deepspeed_config == content
    assert EngineOptions(**options.model_dump(mode="json")) == options
    assert options.identity()["deepspeed_config"] == content
    assert EngineOptions(name="deepspeed", deepspeed_config=json.dumps(content)) == options


@pytest.mark.parametrize(
    ("written", "message"), [(None, "no file"), ("{", "is not JSON"), ("[1]", "holds a list, not an object")]
)
def test_a_deepspeed_file_that_is_none_is_named(written: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    if written is not None:
        file.write_text(written)
    with pytest.raises(ValidationError, match=message) as caught:
        EngineOptions(name="deepspeed", deepspeed_config=str(file))
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("option", [{"zero_stage": 1}, {"deepspeed_config": {}}])
def test_deepspeed_options_are_not_for_ddp(option: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=f"{next(iter(option))} is for engine.name deepspeed"):
        EngineOptions(**option)


def test_what_agrees_or_leaves_it_to_us_is_accepted() -> None:
    check(
        {
            "train_batch_size": 256,
            "train_micro_batch_size_per_gpu": 32,
            "gradient_accumulation_steps": "auto",
            "zero_optimization": {"stage": 2, "overlap_comm": True, "reduce_bucket_size": 1000000},
            "bf16": {"enabled": False},
            "torch_autocast": {"enabled": True, "dtype": "bfloat16"},
            "gradient_clipping": 0.0,
            "communication_data_type": "bf16",
        }
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"train_batch_size": 128}, "train_batch_size is 128, but 256 by train.global_batch"),
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps is 1, but 2 by train.accumulate"),
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage is 3, but 2 by engine.zero_stage"),
        ({"torch_autocast": {"dtype": "float16"}}, "torch_autocast.dtype is 'float16', but 'bfloat16' by train.prec"),
        ({"bf16": {"enabled": True}}, "bf16.enabled is True, but False by train.precision"),
        ({"gradient_clipping": 1.0}, "gradient_clipping is 1.0, but 0 by the training loop"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, "offload_optimizer.device is 'cpu'"),
        ({"zero_optimization": True}, "zero_optimization is True, not an object"),
        (
            {"zero_optimization": {"round_robin_gradients": True}},
            "zero_optimization.round_robin_gradients cannot be set there",
        ),
        (
            {"zero_optimization": {"compute_grad_norm": False}},
            "zero_optimization.compute_grad_norm cannot be set there",
        ),
        ({"zero_optimization": {"cpu_offload": True}}, "zero_optimization.cpu_offload cannot be set there"),
        ({"prescale_gradients": True}, "prescale_gradients cannot be set there"),
        ({"optimizer": {"type": "Adam"}}, "optimizer.type cannot be set there"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler.type cannot be set there"),
    ],
)
def test_a_conflict_names_both_sides(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check(config)
    assert str(caught.value).startswith("engine.deepspeed_config: ")
    assert message in str(caught.value)


def test_zero_3_cannot_be_compiled() -> None:
    check(stage=2, compile_model=True)
    with pytest.raises(UserError, match=r"train\.compile: not with engine\.zero_stage 3"):
        check(stage=3, compile_model=True)
