"""The forms in which a bundle holds a network: one module each, found by its name.

``build(source, folder)`` writes the files and says what ``model.json`` does of them; ``check(folder,
files)`` reads those of a bundle from elsewhere; ``BAR`` and ``passed(found)`` are what parity asks.
"""
