"""Flags of LoRA's run_glue.py and of earlier Trainers, and what has become of them."""

from __future__ import annotations

from collections.abc import Mapping

from sharelora.flags.upstream import RULES as MAIN
from sharelora.flags.upstream import Rule, always, dropped, refused, renamed, switched

_PRECISION = "the base is fp32, and --bf16 or --fp16 compute in half precision; evaluation does as training does"

RULES: Mapping[str, Rule] = {
    **MAIN,
    "max_val_samples": renamed("max_eval_samples"),
    "max_test_samples": renamed("max_predict_samples"),
    "adapter_path": renamed("lora_path"),
    "load_best_model_at_end": switched("save_epoch", "selected", "last"),
    "metric_for_best_model": renamed("selection_metric", lambda flag, value: value.removeprefix("eval_")),
    "greater_is_better": dropped("every metric is better when greater, and the loss when lower"),
    "use_fast_tokenizer": always("true", "only fast tokenizers are made any more"),
    "overwrite_cache": dropped("no tokenised data are kept between runs"),
    "config_name": refused("a model's configuration stands beside its weights; put config.json there"),
    "prediction_loss_only": refused("metrics need predictions"),
    "fp16_full_eval": refused(_PRECISION),
    "bf16_full_eval": refused(_PRECISION),
    "torch_dtype": refused(_PRECISION),
    "bits": refused(_PRECISION),
}
