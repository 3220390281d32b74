"""Fuzzing of everything that reads what somebody else may have written.

    make fuzz SECONDS=3600 SEED=0 JOBS=2

A target makes a case from a seed and a number, and checks it: a reader must succeed or raise
`InputError` with one clean line, in bounded time and memory, and what it accepts must hold.
"""
