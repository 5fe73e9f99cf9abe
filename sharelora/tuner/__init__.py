"""The PEFT tuner: a configuration, a bank that holds every matrix once, and layers that use it.

May import: plan, support. Begin with `config`, then `model`; `layer` is the adapted layer, `kernels.reference` the
formula.
"""
