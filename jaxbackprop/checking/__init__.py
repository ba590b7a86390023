"""The parts of `jaxbackprop.check_gradient`.

In the order to read them: leaves, decisions, points, differences, diagnosis, report, reference, comparison.
"""
