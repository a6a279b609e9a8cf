"""The demo: a page on this machine that asks a classifier about pictures."""
