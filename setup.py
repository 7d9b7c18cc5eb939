"""Builds libfastproc with its own makefile, then the extension round it; ships header and library too.

All else about the package is in pyproject.toml.
"""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HEADER = Path("csrc/include/fastproc.h")
PACKAGE = Path("fastproc/_native")


def version() -> str:
    """The version has one place, the header: C programs ask it too."""
    parts = re.findall(r"^#define FP_VERSION_[A-Z]+ (\d+)$", HEADER.read_text(encoding="utf-8"), re.MULTILINE)
    return ".".join(parts)


def make(*arguments: str) -> None:
    """Run csrc/Makefile, free of what a make further up has put into the environment."""
    environment = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
    try:
        subprocess.run(["make", "-s", "-C", "csrc", *arguments], env=environment, check=True)
    except FileNotFoundError:
        raise SystemExit("fastproc is built with make and a C compiler; there is no make in PATH") from None


class BuildNative(build_ext):
    """The library before the extension, and beside it in the package: include/, lib/, lib/pkgconfig/."""

    def run(self) -> None:
        make(f"-j{min(4, os.cpu_count() or 1)}")
        super().run()
        make("install", f"PREFIX={self._package_dir().resolve()}", "PC_PREFIX=$${pcfiledir}/../..")

    def get_outputs(self) -> list[str]:
        names = ["include/fastproc.h", "lib/pkgconfig/fastproc.pc"]
        names += [f"lib/libfastproc{end}" for end in (".a", ".so", ".so.0")]
        return [*super().get_outputs(), *(str(self._package_dir() / name) for name in names)]

    def _package_dir(self) -> Path:
        return Path("src" if self.inplace else self.build_lib) / PACKAGE


# One wheel serves every CPython from 3.11 on. Builds without the GIL have no stable ABI, see PEP 703.
stable_abi = not sysconfig.get_config_var("Py_GIL_DISABLED")

# Beside cffi's extension, whose copy of the library it uses.
direct = Extension(
    "fastproc._native._direct",
    [f"src/fastproc/_native/{part}.c" for part in ("direct", "entry", "ledger", "many")],
    include_dirs=["csrc/include"],
    depends=["csrc/include/fastproc.h", "src/fastproc/_native/direct.h", "src/fastproc/_native/ledger.h"],
    extra_compile_args=["-std=gnu17", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
    extra_link_args=["-Wl,-z,relro,-z,now"],
    define_macros=[("Py_LIMITED_API", "0x030b0000")] if stable_abi else [],
    py_limited_api=stable_abi,
)

setup(
    version=version(),
    ext_modules=[direct],
    cffi_modules=["src/fastproc/_native/_build.py:ffibuilder"],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if stable_abi else {},
)
