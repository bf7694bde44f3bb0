"""From pictures and records to masks.

A bundle takes infer, pictures, records, runtimes, tiling and video with it as they are.
"""
