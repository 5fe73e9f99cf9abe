"""The parts that benchmarks share: commands, pools of runs, comparisons of methods, tables and plots."""
