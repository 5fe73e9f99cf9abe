# RoBERTa-large. Its tasks: scripts/recipes/roberta_large.sh. Sourced.
base=FacebookAI/roberta-large
recipe=roberta
