//! Integration tests: shared fixtures.
