"""A bundle from a run: the network as one file, and the proof that it gives the same."""
