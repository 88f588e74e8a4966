"""Metrics, logs, traces and probes, as whoever watches over the programs sees them."""
