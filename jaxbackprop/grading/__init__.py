"""A written derivation, marked line by line: `grade`.

In the order to read them: report | expression, grammar, notation, lines | reading, values, shapes, world | comparison,
choice, wiring, slips | diagnosis, correction, numbers | judge, grade. `worked` works a text's own network through.
"""
