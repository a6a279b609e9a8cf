"""Augmentation of an image and of a cell (micro-batch)."""
