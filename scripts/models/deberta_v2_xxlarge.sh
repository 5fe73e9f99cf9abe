# DeBERTa-v2-xxlarge. Its tasks: scripts/recipes/deberta_v2_xxlarge.sh. Sourced.
base=microsoft/deberta-v2-xxlarge
recipe=deberta
