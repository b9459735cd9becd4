"""`make gpu`: all that is to be checked and measured on a CUDA device, in the minutes that one may have with
it.

This package's driver needs nothing but Python: it looks for an interpreter that has what the stages need, and
says what is missing where there is none.
"""
