"""Fuzzers: what anybody could send or type, and that it neither raises nor costs more than it may.

What must stay true: a target is a plain function of bytes, fresh each time, so that an input that
fails once fails always. `python -m tests.fuzz` drives one by coverage; the test suite tries each
with its seeds and what hypothesis makes of them.
"""
