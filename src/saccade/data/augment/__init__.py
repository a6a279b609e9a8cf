"""What augmentation does to an image and to a cell (micro-batch)."""
