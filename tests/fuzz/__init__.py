"""Fuzzers: what an attacker can send or a user can type, which must neither raise nor cost more
than allowed.

Invariants:

- A target is a plain function of bytes with fresh state, so that an input that fails once always
  fails.

`python -m tests.fuzz` drives one target by coverage; the test suite runs each with its seeds and
mutations by hypothesis.
"""
