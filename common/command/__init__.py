"""What `scaleodm` says to a router or a node: see, steer, submit, follow, examine."""
