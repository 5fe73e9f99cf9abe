# Cutoff beside a task's own numbers, as in LoRA's deberta_v2_xxlarge_mnli.cutoff.sh: as R-drop, and the second pass sees
# a tenth of the tokens masked. Sourced.
regularizer_flags=(--reg_loss_wgt 1.0 --masking_prob 0.1 --seed 42)
