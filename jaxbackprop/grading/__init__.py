"""The parts of `jaxbackprop.grade`.

In the order to read them: formula, notation, statements, wiring, worlds, court, remarks, judge.
"""
