"""Herd, the open model layer."""
