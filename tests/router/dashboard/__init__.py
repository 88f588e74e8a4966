"""The dashboard: its decisions as they are, its pages in a real browser."""
