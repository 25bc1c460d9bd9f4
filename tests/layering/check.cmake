# cmake -D ROOT=<folder that holds gptq/> -P check.cmake: fails with one line for each rule that a header breaks.
cmake_minimum_required(VERSION 3.25)

# The house from the ground up: room of include/gptq -> what its headers may include of gptq, as regular expressions of
# paths. Includes point down this list only.
set(core "core/")
set(pack "core/" "pack/")                              # codes <-> words, dequantize, matmul
set(comm "core/" "comm/")                              # several workers
set(quant "core/" "comm/" "quant/")                    # the algorithm, once
set(backend "core/" "pack/" "backend/")                # where it runs
set(io "core/" "io/")                                  # bytes on disk
set(text "core/" "io/" "text/")                        # tokenizers, chats, calibration data
set(format "core/" "pack/" "io/" "format/")            # how codes are stored
set(model "core/" "pack/" "io/" "format/" "model/")    # what a model is
set(run "core/" "pack/" "io/" "format/" "model/" "run/")  # run a model
set(engines "core/" "pack/" "io/" "format/" "engines/")   # who can load it
set(quantize "core/" "pack/" "quant/" "comm/" "io/" "format/" "model/" "run/" "engines/" "quantize/")  # quantize a folder
set(top "core/" "quant/" "pack/")  # gptq.hpp: no backend, no dependency

# other libraries -> the headers that may include them
set(libraries Eigen nlohmann pcre2 utf8proc sentencepiece cuda)
set(include_Eigen "<Eigen/|<unsupported/Eigen")
set(may_Eigen "^backend/host")
set(include_nlohmann "<nlohmann/")
set(may_nlohmann "^io/json\\.hpp$")
set(include_pcre2 "<pcre2")
set(may_pcre2 "^text/")
set(include_utf8proc "<utf8proc")
set(may_utf8proc "^text/")
set(include_sentencepiece "<sentencepiece")
set(may_sentencepiece "^text/sentencepiece\\.hpp$")
set(include_cuda "<(cuda|cublas|cusolver|cub/|thrust/)")
set(may_cuda "^backend/cuda")

set(failures 0)
macro(broken text)
  message("${header}: ${text}")
  math(EXPR failures "${failures} + 1")
endmacro()

file(GLOB_RECURSE headers RELATIVE ${ROOT}/gptq ${ROOT}/gptq/*.hpp ${ROOT}/gptq/*.cuh)
foreach(header IN LISTS headers)
  if(header MATCHES "^([^/]+)/")
    set(folder ${CMAKE_MATCH_1})
  else()
    set(folder top)
  endif()
  if(NOT DEFINED ${folder})
    broken("the folder ${folder} is not in the table of tests/layering/check.cmake")
    continue()
  endif()
  file(READ ${ROOT}/gptq/${header} content)
  if(NOT content MATCHES "\n#pragma once\n" AND NOT content MATCHES "^#pragma once\n")
    broken("has no #pragma once")
  endif()
  if(content MATCHES "\n *namespace *{")
    broken("an unnamed namespace in a header")
  endif()
  if(NOT header MATCHES "^text/splitting" AND content MATCHES "\"[^\"\n]*--[a-z][^\"\n]*\"")
    broken("${CMAKE_MATCH_0} names an option of a program: give the remedy's code (core/remedy.hpp), which programs turn into theirs")
  endif()
  string(REGEX MATCHALL "\n" lines "${content}")
  list(LENGTH lines lines)
  if(lines GREATER 400)
    broken("${lines} lines; over 400, a header holds two ideas")
  endif()
  file(STRINGS ${ROOT}/gptq/${header} includes REGEX "^ *# *include")
  foreach(line IN LISTS includes)
    if(line MATCHES "include *\"")
      broken("${line}: headers of gptq are included as <gptq/…>")
    elseif(line MATCHES "<gptq/([^>]+)>")
      set(to ${CMAKE_MATCH_1})
      set(allowed FALSE)
      foreach(pattern "version\\.hpp$" ${${folder}})
        if(to MATCHES "^${pattern}")
          set(allowed TRUE)
        endif()
      endforeach()
      if(NOT allowed)
        broken("may not include <gptq/${to}>: includes point down the list in tests/layering/check.cmake")
      endif()
    endif()
    foreach(library IN LISTS libraries)
      if(line MATCHES "${include_${library}}" AND NOT header MATCHES "${may_${library}}")
        broken("may not include ${library}: ${line}")
      endif()
    endforeach()
  endforeach()
endforeach()
list(LENGTH headers count)
if(failures GREATER 0)
  message(FATAL_ERROR "${failures} broken rules in ${count} headers")
elseif(count EQUAL 0)
  message(FATAL_ERROR "no header below ${ROOT}/gptq")
endif()
message("${count} headers keep the rules")
