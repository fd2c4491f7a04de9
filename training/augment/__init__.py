"""Augmentations of real and generated frames before the discriminators."""
