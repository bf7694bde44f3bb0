"""Scores: of one run, of two compared, of weights averaged."""
