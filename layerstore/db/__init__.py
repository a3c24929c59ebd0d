"""Owns the database: its schema, its statements, its connection; it must not know what events mean."""
