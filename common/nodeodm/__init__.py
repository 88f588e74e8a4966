"""The NodeODM API, written once: what router and node both answer."""
