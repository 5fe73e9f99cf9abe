"""Quality: methods compared over seeds after a search for learning rates, and every exam with one model."""
