"""Training: arguments, Trainer glue, prediction, and the files that a run leaves."""
