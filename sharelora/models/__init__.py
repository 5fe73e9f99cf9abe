"""Base models, encoders and vision-language models: found, loaded, known by name without weights, and adapters on them.

May import: tuner, plan, support. Begin with `load`; `known` has the shapes of models that are named.
"""
