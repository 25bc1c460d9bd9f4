/// What the library throws. Misuse and bad input are exceptions; a numerical fallback is not: it is data in the report
/// of the layer (core/report.hpp).
#pragma once

#include <gptq/core/remedy.hpp>

#include <stdexcept>
#include <string>

namespace gptq {
inline namespace v0 {

/// Base of everything the library throws on purpose: what is wrong, and what a caller may change about it, if that is
/// known.
class error : public std::runtime_error {
 public:
  explicit error(std::string const& text, remedies change = {}) : std::runtime_error(text), change_(change) {}
  [[nodiscard]] remedies change() const noexcept { return change_; }

 private:
  remedies change_;
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
