"""Text that a model writes after prompts: batched, greedy or sampled, up to stop strings, on disk as each text ends.

Begin with `settings`, then `engine`.
"""
