"""Figures of `sharelora figures`: singular values of adapters, memory over rank, scores of runs."""
