"""What a NodeODM client may count on, row by row, and the test that proves each: `python -m tests.compatibility`.

A test says `@pytest.mark.contract("2.3 numbers")` to stand for that row of `catalogue.py`.
"""
