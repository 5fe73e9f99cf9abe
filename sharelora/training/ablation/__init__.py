"""Grids of trainings from one file: what a rank, a threshold or the choice of modules changes."""
