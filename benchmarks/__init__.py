"""Measurements of speed and memory. `train_step.py` is for any machine, `gpu.sh` for one with a large GPU."""
