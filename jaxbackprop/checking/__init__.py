"""The parts of `jaxbackprop.check_gradient`.

In the order to read them: program, points, differences, leaves, diagnosis, report, reference, comparison.
"""
