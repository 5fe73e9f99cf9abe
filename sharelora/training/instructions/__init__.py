"""Tuning a language model on instructions: QLoRA's job with shared adapters, MMLU during training, and predictions."""
