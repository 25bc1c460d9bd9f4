/// How the quantization of one linear layer went. A numerical fallback is recorded here, never hidden.
#pragma once

#include <gptq/core/matrix.hpp>

#include <string>

namespace gptq {
inline namespace v0 {

/// What became of a layer, in rising order of trouble.
enum class outcome : unsigned char {
  ok,
  few_tokens,   ///< fewer calibration tokens than inputs: the Hessian is singular but for the damping
  factor_fp64,  ///< the factorization in the backend's own precision failed, the one in fp64 did not
  damp_raised,  ///< more damping than asked was needed
  diag_floor,   ///< the diagonal had to be lifted
  rtn_no_data,  ///< no calibration token reached the layer: rounded to nearest
  rtn_not_pd,   ///< no factorization succeeded: rounded to nearest
};

/// The name that reports use: "ok", "few_tokens", …
constexpr char const* to_string(outcome o) {
  constexpr char const* names[] = {"ok",         "few_tokens",  "factor_fp64", "damp_raised",
                                   "diag_floor", "rtn_no_data", "rtn_not_pd"};
  return names[static_cast<unsigned char>(o)];
}

/// True for outcomes that a caller should have allowed explicitly.
constexpr bool is_fallback(outcome o) { return o >= outcome::diag_floor; }

/// Losses are squared output errors tr(E·H·Eᵀ) relative to the squared output tr(W·H·Wᵀ), both with the undamped
/// Hessian: comparable between layers, runs and tools. Negative where not computed.
struct linear_report {
  outcome status = outcome::ok;
  index_t tokens = 0;            ///< calibration tokens behind the Hessian
  index_t dropped_chunks = 0;    ///< batches left out because they held NaN or Inf
  index_t dead_inputs = 0;       ///< inputs that were zero in every token
  index_t scale_underflows = 0;  ///< scales below the smallest float16, lifted to it
  double damp_asked = 0;
  double damp_used = 0;
  bool factor_fp64 = false;
  double damped_loss = -1;   ///< tr(E·(H+λI)·Eᵀ), absolute; the public reference prints half of it
  double rel_loss = -1;      ///< of the codes found
  double rel_loss_rtn = -1;  ///< of rounding to nearest on the same kind of grid
  /// Where the solve aimed at more than the weights, ‖W·x_f − Q·x‖² relative to ‖W·x_f‖²: against what the layer puts
  /// out in the float model, on up to 1,024 of the tokens.
  double float_loss = -1;
  double pass_loss = -1;     ///< like rel_loss, but against the target of the solve, before …
  double refined_loss = -1;  ///< … and after refinement
  std::string detail;        ///< what was seen, where status is not ok
};

}  // namespace v0
}  // namespace gptq
