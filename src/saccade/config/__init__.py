"""The configuration: its schema, its fields, and how files and flags are merged into it."""
