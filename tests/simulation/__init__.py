"""Hours of a federation in seconds: the production decisions on a simulated clock, with seeded faults (issue 4).

`world.py` is what there is: the clock, Postgres, S3, the network, the nodes. `router.py` is the router's shell around
the real decisions, step by step as `router/loop.py` and `router/registry.py` go. `faults.py` breaks things, by a plan
that the seed makes. `invariants.py` watches. `run.py` puts them together; `python -m tests.simulation` runs them.
"""
