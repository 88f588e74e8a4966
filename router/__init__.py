"""The router: one NodeODM API in front of many nodes."""
