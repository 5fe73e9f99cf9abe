"""Encoders on GLUE: arguments, the methods that are compared, heads, the Trainer, and the job."""
