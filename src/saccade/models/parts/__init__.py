"""What architectures are built from, and what is known about them."""
