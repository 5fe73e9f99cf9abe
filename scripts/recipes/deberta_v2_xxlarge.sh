# DeBERTa-v2-xxlarge on GLUE, one line per task, as in LoRA's examples/NLU/deberta_v2_xxlarge_*.sh. Sourced.
# Columns: see roberta_base.sh; a warm-up below 1 is a fraction of all updates.
task_table="
  task  start  gpus  per_gpu  learning_rate  num_train_epochs  max_seq_length  warmup_steps  weight_decay  cls_dropout  eval_steps  save_steps
  mnli  none   8     8        1e-4           5                 256             1000          0             0.15         500         500
  sst2  none   8     8        6e-5           16                128             1000          0.01          0            100         100
  mrpc  mnli   8     32       2e-4           30                128             0.1           0.01          0            10          10
  cola  none   8     4        1.3e-4         10                64              100           0             0.1          20          20
  qnli  none   8     6        1e-4           8                 512             500           0.01          0.1          500         500
  qqp   none   8     8        1e-4           11                320             10000         0.01          0.2          500         500
  rte   mnli   8     4        2.6e-4         11                320             50            0.01          0.2          20          20
  stsb  mnli   8     4        2e-4           10                128             100           0.1           0.2          50          50
"
