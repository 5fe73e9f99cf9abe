# RoBERTa-base on GLUE, one line per task, as in LoRA's examples/NLU/roberta_base_*.sh. Sourced.
# `per_gpu` examples on each of `gpus` GPUs make an update; `start` is the task whose adapter training starts from;
# what follows are flags of the job.
task_table="
  task  start  gpus  per_gpu  learning_rate  num_train_epochs  max_seq_length
  mnli  none   8     16       5e-4           30                512
  sst2  none   8     16       5e-4           60                512
  mrpc  mnli   8     16       4e-4           30                512
  cola  none   2     32       4e-4           80                512
  qnli  none   8     32       4e-4           25                512
  qqp   none   8     16       5e-4           25                512
  rte   mnli   8     32       5e-4           80                512
  stsb  mnli   8     16       4e-4           40                512
"
