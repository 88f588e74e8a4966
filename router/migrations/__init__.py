"""The road from one release's tables to the next: number, `pre` or `post`, reason."""
