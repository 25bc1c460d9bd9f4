# Configures, builds and runs one consumer project; KIND is its folder.
cmake_minimum_required(VERSION 3.25)

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE log ERROR_VARIABLE log)
  message("${log}")
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "failed: ${ARGN}")
  endif()
endfunction()

# What must fail, and must print `text`.
function(run_refused text)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE log ERROR_VARIABLE log)
  string(REGEX REPLACE "[ \n]+" " " log "${log}")
  if(status EQUAL 0 OR NOT log MATCHES "${text}")
    message(FATAL_ERROR "not refused with '${text}': ${ARGN}\n${log}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK})
string(REPLACE ";" "\\;" COMPONENTS "${COMPONENTS}")
set(configure ${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/${KIND} -G ${GENERATOR} -D CMAKE_CXX_COMPILER=${CXX}
              -D CMAKE_BUILD_TYPE=Debug)
if(KIND STREQUAL "find_package")
  run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix)
  list(APPEND configure -D CMAKE_PREFIX_PATH=${WORK}/prefix)
  # gptq::gptq alone looks for nothing else, and a component that cannot be had says why.
  set(blind ${configure} -D CMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON -D CMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON
            -D CMAKE_DISABLE_FIND_PACKAGE_PkgConfig=ON -D CMAKE_DISABLE_FIND_PACKAGE_OpenMP=ON -D CUDA=OFF)
  run(${blind} -B ${WORK}/blind -D COMPONENTS=gptq)
  run(${CMAKE_COMMAND} --build ${WORK}/blind)
  run_refused("gptq::host needs Eigen 3.4 or later" ${blind} -B ${WORK}/blind_host -D COMPONENTS=host)
  run_refused("gptq::text needs nlohmann-json, pkg-config" ${blind} -B ${WORK}/blind_text -D COMPONENTS=text)
  run_refused("gptq::nonsense needs to be a component of gptq" ${blind} -B ${WORK}/blind_none -D COMPONENTS=nonsense)
  # Without COMPONENTS: whatever is there.
  run(${configure} -B ${WORK}/any -D CUDA=OFF -D COMPONENTS=)
else()
  list(APPEND configure -D GPTQ_SOURCE=${SOURCE})
endif()
run(${configure} -B ${WORK}/build -D "COMPONENTS=${COMPONENTS}" -D CUDA=${CUDA})
run(${CMAKE_COMMAND} --build ${WORK}/build --parallel 2)
run(${CMAKE_CTEST_COMMAND} --test-dir ${WORK}/build --output-on-failure --no-tests=error)
file(REMOVE_RECURSE ${WORK})
