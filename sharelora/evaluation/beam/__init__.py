"""Beam search with the meaning of LoRA's gpt2_beam.py, in batches, each distinct input once.

Begin with `settings`, then `search`.
"""
