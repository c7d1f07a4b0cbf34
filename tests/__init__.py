"""The test suite. A package, so that `tests.plugins` cannot be shadowed by a `tests` of another distribution."""
