"""The cluster that a node stands in, as far as the node must know it."""
