# R-drop beside a task's own numbers, as in LoRA's deberta_v2_xxlarge_mnli.rdrop.sh: two passes with different dropout
# shall agree. Sourced.
regularizer_flags=(--reg_loss_wgt 1.0 --seed 42)
