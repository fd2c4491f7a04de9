"""Measurements of the original system as tests use them, and a slow reference written from the method's formulas."""
