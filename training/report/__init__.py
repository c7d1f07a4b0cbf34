"""report.html of a model directory: one file, no network, plots inside."""
