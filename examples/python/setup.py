"""Builds the package against the torch that is installed: pip install ./examples/python"""

import os
import pathlib
import re
import shutil
import site
import sys
import sysconfig

from setuptools import setup
from setuptools.command.sdist import sdist

# pip builds in an environment of its own. A torch installed there might differ from the one that loads the extension.
sys.path += [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), site.getusersitepackages(),
             *site.getsitepackages([sys.base_prefix])]
try:
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError as error:
    sys.exit(f"smooseg is built against the torch that is installed, and there is none ({error}): pip install torch")

HERE = pathlib.Path(__file__).resolve().parent
# Beside this file in a source distribution, else where the library has them.
INCLUDE = next(path for path in (HERE / "include", HERE.parents[1] / "include") if (path / "smooseg").is_dir())


def eigen():
    """The folder of Eigen's headers, which the dense CRF and the scores need."""
    folders = [os.environ.get("EIGEN3_INCLUDE_DIR", ""), sys.prefix + "/include/eigen3", "/usr/include/eigen3",
               "/usr/local/include/eigen3", "/opt/homebrew/include/eigen3"]
    for folder in folders:
        if folder and os.path.exists(os.path.join(folder, "Eigen", "Core")):
            return folder
    sys.exit("Eigen's headers were not found: install them (Debian: apt-get install libeigen3-dev), or set "
             "EIGEN3_INCLUDE_DIR to the folder that holds Eigen/Core")


class SourceDistribution(sdist):
    """With the library's headers, which lie outside of this folder."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        shutil.copytree(INCLUDE, pathlib.Path(base_dir) / "include")


version = re.search(r'SMOOSEG_VERSION "(.*)"', (INCLUDE / "smooseg" / "version.hpp").read_text()).group(1)
extension = CppExtension("smooseg._library", ["src/smooseg/library.cpp"], include_dirs=[str(INCLUDE), eigen()],
                         extra_compile_args=["-O2", "-g0"])
setup(version=version, ext_modules=[extension],
      cmdclass={"build_ext": BuildExtension.with_options(use_ninja=False), "sdist": SourceDistribution})
