"""Logs, statistics, previews and geometry of a run while it trains."""
