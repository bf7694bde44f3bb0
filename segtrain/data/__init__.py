"""Datasets: images and masks of class ids. One module with a ``build`` per format."""
