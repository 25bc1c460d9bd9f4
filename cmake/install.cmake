# The installed package: headers, one export file for each component, and a config that finds what is asked for.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/gptq)
install(DIRECTORY include/gptq DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.hpp" PATTERN "*.cuh")
foreach(component gptq host model text cuda)
  set_target_properties(gptq_${component} PROPERTIES EXPORT_NAME ${component})
  install(TARGETS gptq_${component} EXPORT gptq-${component}-targets)
  install(EXPORT gptq-${component}-targets NAMESPACE gptq:: DESTINATION ${package_dir})
endforeach()

configure_package_config_file(cmake/gptq-config.cmake.in gptq-config.cmake INSTALL_DESTINATION ${package_dir}
                              NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(gptq-config-version.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/gptq-config.cmake ${PROJECT_BINARY_DIR}/gptq-config-version.cmake
              cmake/gptq-dependencies.cmake DESTINATION ${package_dir})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
