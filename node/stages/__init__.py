"""What runs beside the engine: fetch before it, publish after it."""
