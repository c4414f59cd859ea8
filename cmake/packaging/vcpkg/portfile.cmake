# An overlay port of the source tree that it lies in:
#
#   vcpkg install smooseg --overlay-ports=cmake/packaging/vcpkg
#   vcpkg install 'smooseg[torch]' --overlay-ports=cmake/packaging/vcpkg    with vcpkg's LibTorch

get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

# LibTorch is looked up when a project uses smooseg, not now.
vcpkg_cmake_configure(SOURCE_PATH "${SOURCE_PATH}" OPTIONS -DSMOOSEG_INSTALL=ON)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(PACKAGE_NAME smooseg CONFIG_PATH share/cmake/smooseg)
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/debug" "${CURRENT_PACKAGES_DIR}/share/doc")
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
