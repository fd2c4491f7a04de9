"""Evaluation: distances between sets of real and generated clips, and measures of single clips and scenes."""
