"""Snapshots of the networks and training states, as files."""
