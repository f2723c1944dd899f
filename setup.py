"""Packages, and the C++ modules nova_mhv._engine and nova_mhv._layer, which CMake builds. Everything else is in setup.cfg."""

import os
import pathlib
import shutil
import subprocess
import sys

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Builds a target of CMakeLists.txt, such as `_engine`, straight to where setuptools wants the module.

    MHV_ENGINE_MODULE names an `_engine` that is built already, as it is when the whole engine was; the others are beside it.
    """

    def build_extension(self, ext):
        module = pathlib.Path(self.get_ext_fullpath(ext.name)).resolve()
        built = os.environ.get("MHV_ENGINE_MODULE")
        if built:
            module.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(pathlib.Path(built).with_name(module.name), module)
            return
        build = pathlib.Path(self.build_temp).resolve() / "cmake"
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            "-S", str(ROOT),
            "-B", str(build),
            "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
            "-DMHV_TESTS=OFF",
            "-DMHV_PROGRAMS=OFF",
            "-DMHV_BINDINGS=ON",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={module.parent}",
            f"-DPython3_EXECUTABLE={sys.executable}",
            f"-DPYTHON_EXECUTABLE={sys.executable}",
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        jobs = str(self.parallel or os.cpu_count() or 1)
        target = ext.name.rpartition(".")[2]
        subprocess.run(["cmake", "--build", str(build), "--target", target, "--parallel", jobs], check=True)


# The Nova shim is installed as nova.virt.mhv, into the `nova` package that is there: nothing of ours may
# bring a nova/__init__.py or nova/virt/__init__.py.
setup(
    packages=find_packages(include=["nova_mhv", "nova_mhv.*"], exclude=["nova_mhv.shim"]) + ["nova.virt.mhv"],
    package_dir={"nova.virt.mhv": "nova_mhv/shim"},
    package_data={"nova_mhv": ["*.pyi", "py.typed"]},
    ext_modules=[Extension("nova_mhv._engine", sources=[]), Extension("nova_mhv._layer", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
