"""What router and node must agree on. Imports neither."""
