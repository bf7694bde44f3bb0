"""Losses over the valid pixels of a whole batch, whatever the number of devices it is split over.

A loss is one function of functions.py. It returns the *sum* over a device's share, and the host,
which knows the masks before the step, has the number to divide by. So gradients of shares add up
to the gradient of the batch, and no step waits for a number from a device.
"""

from segtrain.losses.block import Loss, Term, known_losses, terms
from segtrain.losses.masks import border_weights, class_weights, pixel_weights

__all__ = ["Loss", "Term", "border_weights", "class_weights", "known_losses", "pixel_weights", "terms"]
