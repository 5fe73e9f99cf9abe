"""Measurements of speed, memory and quality, each a command: `python benchmarks/FOLDER/NAME.py --help`.

- `speed/`: training steps and decoding against other libraries;
- `memory/`: the estimate against measured peaks, and memory over a long run;
- `scores/`: methods compared by what they learn, every evaluation command on real test sets;
- `gpu/`: speed and memory on one large GPU, started by `gpu.sh`;
- `peft_suite/`: PEFT's own tests with shared adapters in the place of LoRA;
- `harness/`: what they have in common: commands, pools of runs, comparisons, tables, plots.

`results/` holds the dated files of earlier measurements. A command imports torch only after it has read its flags, so
that `--help` is quick, so there are imports inside `measure` and `main`.
"""
