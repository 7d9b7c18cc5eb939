"""Typed functions over the C library: numbers and bytes go in, values and exceptions come out.

Nothing but this package knows of cffi, of pointers, and of what must be kept alive during a call.
"""
