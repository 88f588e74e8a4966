"""The whole system on one machine, without Docker, Kubernetes, root or an account (design 8)."""
