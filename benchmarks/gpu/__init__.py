"""Speed, memory and correctness on one large GPU; `bash benchmarks/gpu.sh` starts it."""
