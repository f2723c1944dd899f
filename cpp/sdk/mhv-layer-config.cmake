# find_package(mhv-layer): the target mhv::layer.
include(CMakeFindDependencyMacro)
find_dependency(fmt)
find_dependency(spdlog)
find_dependency(CLI11)
find_dependency(nlohmann_json)
include(${CMAKE_CURRENT_LIST_DIR}/mhv-layer-targets.cmake)
