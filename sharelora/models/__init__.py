"""Base models, encoders and vision-language models: loaded, or built without weights; and saved adapters on them.

May import: tuner, plan, support. Begin with `load`; `known` has the published shapes by name.
"""
