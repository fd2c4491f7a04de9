"""Videos, frames and surfaces from a trained generator."""
