"""A Trainer that runs on any engine, can be interrupted anywhere, and resumes bit by bit; it knows no task.

May import: reporting, data, tuner, support. Begin with `trainer`: it is transformers' Trainer, names its parts, and
`overrides` lists the methods that it changes and why. Before a run come `devices` (device, precision, optimizer),
`launch` (the engine that a launcher chose) and `unsupported` (what that engine cannot do).
"""
