# How this project's own programs (app, examples, tests, benchmarks) are compiled. Nothing here reaches a user's build.

set(gptq_native_flags "")
if(GPTQ_NATIVE AND NOT GPTQ_SANITIZE)
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag("-march=native -mtune=generic" GPTQ_HAS_MARCH_NATIVE)
  if(GPTQ_HAS_MARCH_NATIVE)
    set(gptq_native_flags -march=native -mtune=generic)
    message(STATUS "gptq: programs are built for this machine (${CMAKE_SYSTEM_PROCESSOR}, -march=native -mtune=generic); "
                   "-DGPTQ_NATIVE=OFF for any machine of its kind")
  endif()
endif()

# Builds the target for this machine's processor: Eigen is three times slower without.
function(gptq_tune target)
  foreach(flag IN LISTS gptq_native_flags)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${flag}> $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=${flag}>)
  endforeach()
endfunction()

set(gptq_portable_warnings -Wall -Wextra -Wconversion -Wshadow -Wsign-conversion)
set(gptq_warning_flags ${gptq_portable_warnings})
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # False in g++ 12: the first two in its own AVX-512 intrinsics, the third in std::string's operator+.
  list(APPEND gptq_warning_flags -Wno-maybe-uninitialized -Wno-uninitialized -Wno-restrict)
endif()
if(GPTQ_WERROR)
  list(APPEND gptq_warning_flags -Werror)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # These come from flow analysis after inlining and change with version and flags: shown, but no error.
    list(APPEND gptq_warning_flags -Wno-error=array-bounds -Wno-error=stringop-overflow -Wno-error=stringop-overread -Wno-error=free-nonheap-object)
  endif()
endif()

# Warnings, sanitizers and tuning, for every program of this project. Its C++ sources are compiled together, since most of
# the time goes into what the headers instantiate in each of them; -D GPTQ_UNITY=OFF compiles each by itself.
function(gptq_program target)
  if(GPTQ_UNITY)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
    get_target_property(device_sources ${target} SOURCES)
    list(FILTER device_sources INCLUDE REGEX "\\.cu$")
    if(device_sources)  # each is large by itself; CMake before 3.31 leaves them alone anyway
      set_source_files_properties(${device_sources} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    endif()
  endif()
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${gptq_warning_flags}>")
  if(GPTQ_UNITY)  # one file's names at namespace scope are no matter to the next file's parameters
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wno-shadow>)
  endif()
  gptq_tune(${target})
  if(GPTQ_SANITIZE)
    # null and object-size: AddressSanitizer sees those accesses too, and they cost a third of the compile time.
    set(flags -fsanitize=address,undefined -fno-sanitize=null,object-size -fno-sanitize-recover=undefined
              -fno-omit-frame-pointer)
    target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${flags};-D_GLIBCXX_ASSERTIONS>")
    target_link_options(${target} PRIVATE ${flags})
  endif()
endfunction()

# gptq_link(<target> <component>...) links gptq::gptq and those of the components that are available.
function(gptq_link target)
  target_link_libraries(${target} PRIVATE gptq::gptq)
  foreach(component IN LISTS ARGN)
    if(component IN_LIST gptq_available)
      target_link_libraries(${target} PRIVATE gptq::${component})
    endif()
  endforeach()
endfunction()

# gptq_have(<variable> <component>...) sets the variable to TRUE where all of the components are available.
function(gptq_have variable)
  set(all TRUE)
  foreach(component IN LISTS ARGN)
    if(NOT component IN_LIST gptq_available)
      set(all FALSE)
    endif()
  endforeach()
  set(${variable} ${all} PARENT_SCOPE)
endfunction()
