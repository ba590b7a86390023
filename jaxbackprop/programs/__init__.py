"""Any function of arrays as a program that can be read, run and changed.

In the order to read them: flat, uses.
"""
