"""What a process asks of its system: signals, streams, folders, links, locks, cores."""
