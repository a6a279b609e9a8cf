"""The command line: one verb per file, and the options that several share."""
