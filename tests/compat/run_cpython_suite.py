"""Run the interpreter's own test.test_subprocess with fastproc.subprocess in the place of the module.

    python tests/compat/run_cpython_suite.py [--list] [-v] [PATTERN ...]
"""

import sys
import unittest

import fastproc.subprocess

sys.modules["subprocess"] = fastproc.subprocess
