"""What is measured of models that read images."""
