"""The images, really built and run: `make test-images` (docs/images.md)."""
