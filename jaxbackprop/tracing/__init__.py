"""The derivation worked through with numbers: `trace`.

In the order to read them: symbols, rows, render, picture, trace.
"""
