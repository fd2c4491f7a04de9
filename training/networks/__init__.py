"""The generator and its discriminators, and how they run on a device."""
