"""What the router answers beside the NodeODM API."""
