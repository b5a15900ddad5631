"""Mutation testing of the protocol core: small faults that each module's own tests must find.

``python -m tests.mutation --sample 60 --seed 1`` puts faults into modules one at a time and runs the tests
that belong to the module. A fault that no test finds shows a missing test, or changes nothing: then it
belongs into ``equivalent.toml``.
"""
