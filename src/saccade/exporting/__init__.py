"""Trained networks as files for other programs, each proved on real images before it counts."""
