"""Evaluation: distances between sets of real and generated clips, and measures of what a clip or a scene is like."""
