"""From a command line to running training processes: options, run folder, set-up."""
