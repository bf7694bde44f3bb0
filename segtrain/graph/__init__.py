"""What a network looks like: its layers, its drawing, and what its skips are worth."""
