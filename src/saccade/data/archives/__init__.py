"""Files that hold many files, read in place."""
