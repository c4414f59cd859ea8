"""Conan 2 recipe of the source tree that it lies in:

    conan create cmake/packaging/conan
    conan create cmake/packaging/conan -o 'smooseg/*:torch=True'    with Conan's LibTorch

Without the option smooseg::eigen can be used at once, and the rest with a LibTorch of one's own (Debian's, that of
Python's torch, a folder), which find_package(smooseg) looks for as docs/library.md says.
"""

import os
import re

from conan import ConanFile
from conan.tools.cmake import CMake
from conan.tools.files import copy, load, rmdir

ROOT = os.path.join("..", "..", "..")


class SmoosegConan(ConanFile):
    name = "smooseg"
    description = "Unsupervised semantic segmentation: the losses and predictor of SmooSeg, header-only"
    license = "MIT"
    package_type = "header-library"
    settings = "os", "compiler", "build_type", "arch"
    options = {"torch": [True, False]}
    default_options = {"torch": False}
    generators = "CMakeToolchain"
    no_copy_source = True

    def set_version(self):
        header = load(self, os.path.join(self.recipe_folder, ROOT, "include", "smooseg", "version.hpp"))
        self.version = re.search(r'SMOOSEG_VERSION "([^"]+)"', header).group(1)

    def export_sources(self):
        source = os.path.join(self.recipe_folder, ROOT)
        for pattern in ("include/*.hpp", "cmake/*", "CMakeLists.txt", "LICENSE"):
            copy(self, pattern, source, self.export_sources_folder)

    def requirements(self):
        self.requires("eigen/[>=3.4 <6]", transitive_headers=True)
        if self.options.torch:
            self.requires("libtorch/[>=1.13]", transitive_headers=True, transitive_libs=True)

    def package_id(self):
        self.info.clear()

    def build(self):
        CMake(self).configure()

    def package(self):
        CMake(self).install()
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        rmdir(self, os.path.join(self.package_folder, "share", "doc"))

    def package_info(self):
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        # smooseg's own smoosegConfig.cmake has its components and finds LibTorch.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = [os.path.join("share", "cmake", "smooseg")]
