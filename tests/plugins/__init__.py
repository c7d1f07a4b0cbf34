"""Fixtures shared by the whole suite, one subject a file; tests/conftest.py loads them."""
