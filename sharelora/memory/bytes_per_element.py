"""Bytes per element, of precisions and of optimizers' states: tables that parsers read too, so nothing is imported."""

from __future__ import annotations

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}

# Optimizer -> bytes of state per trainable element. Its 8-bit states have an fp32 constant per 256 elements.
STATES: dict[str, float] = {
    "adamw_torch": 8,
    "adamw_torch_fused": 8,
    "adamw_hf": 8,
    "paged_adamw_32bit": 8,
    "adamw_8bit": 2 + 2 * 4 / 256,
    "adamw_bnb_8bit": 2 + 2 * 4 / 256,
    "paged_adamw_8bit": 2 + 2 * 4 / 256,
    "lion_32bit": 4,
    "paged_lion_32bit": 4,
    "lion_8bit": 1 + 4 / 256,
    "paged_lion_8bit": 1 + 4 / 256,
    "rmsprop": 4,
    "sgd": 0,
}
FACTORED = "adafactor"
