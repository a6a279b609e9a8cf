"""Run folders: what a run writes into its own, and what is found there again."""
