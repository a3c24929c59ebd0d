"""Owns everything that touches the disk and the kernel; it must not know the journal or the
database.
"""
