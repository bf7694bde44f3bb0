"""From pictures and records to masks.

A bundle takes infer, pictures, records, runtimes, threads, tiling and video with it as they are.
"""
