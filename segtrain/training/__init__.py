"""The training loop, its parts, and what is asked of it before and after: dry run, trial, self-test."""
