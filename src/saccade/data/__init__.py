"""From archives, folders and files to batches of pixels."""
