"""Tuning of models that read images: arguments, data, session, job."""
