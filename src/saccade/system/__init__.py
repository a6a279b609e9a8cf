"""The operating system: signals, streams, folders, links, locks, cores."""
