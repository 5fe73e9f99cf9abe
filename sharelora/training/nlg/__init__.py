"""Tuning GPT-2 on data-to-text sets: LoRA's `gpt2_ft.py` with shared adapters."""
