# RoBERTa-base. Its tasks: scripts/recipes/roberta_base.sh. Sourced.
base=FacebookAI/roberta-base
recipe=roberta
