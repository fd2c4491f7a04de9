"""What a run reports while it trains: log, statistics, previews, geometry."""
