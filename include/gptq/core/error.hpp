/// What the library throws. Misuse and bad input are exceptions; a numerical fallback is not: it is data in the report
/// of the layer (core/report.hpp).
#pragma once

#include <stdexcept>
#include <string>

namespace gptq {
inline namespace v0 {

/// Base of everything the library throws on purpose.
class error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Arguments whose sizes or settings do not fit together; the text names both.
class shape_error : public error {
  using error::error;
};

/// A file that is missing, truncated, malformed or not supported; the text names file, tensor and reason.
class format_error : public error {
  using error::error;
};

/// Numbers that can't be worked with (NaN, Inf, a Hessian that no damping repairs); the text names layer and values.
class numeric_error : public error {
  using error::error;
};

/// A device that is absent, too old, too small or that failed; the text names call and status.
class device_error : public error {
  using error::error;
};

/// The budget of device memory is used up, or the device is full: smaller pieces may still fit.
class device_memory_error : public device_error {
  using device_error::device_error;
};

}  // namespace v0
}  // namespace gptq
