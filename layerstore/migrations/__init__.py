"""Owns the way from one schema revision to the next; alembic finds it as `layerstore:migrations`."""
