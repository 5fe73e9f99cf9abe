# RoBERTa-large on GLUE, one line per task, as in LoRA's examples/NLU/roberta_large_*.sh. Sourced.
# Columns: see roberta_base.sh.
task_table="
  task  start  gpus  per_gpu  learning_rate  num_train_epochs  max_seq_length
  mnli  none   8     4        3e-4           10                128
  sst2  none   8     8        4e-4           10                512
  mrpc  mnli   8     4        3e-4           20                512
  cola  none   8     4        3e-4           20                128
  qnli  none   8     4        2e-4           10                512
  qqp   none   8     4        3e-4           20                512
  rte   mnli   8     8        4e-4           20                512
  stsb  mnli   8     4        3e-4           10                128
"
