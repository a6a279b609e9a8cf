"""What would make a run fail, found before its first step; and proofs on the user's own set-up."""
