/// What a solve gives: codes and scales of the layers that share an input, and what each of their outputs lost.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/core/quantize_backend.hpp>
#include <gptq/core/quantized_linear.hpp>

#include <cstddef>
#include <string>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Squared outputs and output errors of one output over the calibration tokens, as tr(·) terms with the undamped
/// Hessian unless said otherwise: sums of them over outputs are the layer's losses.
struct output_loss {
  double damped = 0;        ///< of the pass against its target, with the damped Hessian
  double pass = 0;          ///< of the pass against its target
  double refined = 0;       ///< of the codes against the target, after refinement
  double error = 0;         ///< of the codes against the weights
  double energy = 0;        ///< of the weights themselves
  double rtn = 0;           ///< of rounding to nearest
  double float_error = 0;   ///< of the outputs against those of the float model, over some tokens
  double float_energy = 0;  ///< of the float model's outputs, over the same
};

/// A scale that float16 can't hold, because the weights are too large.
class scale_error : public numeric_error {
 public:
  scale_error(index_t row, index_t column_group)
      : numeric_error("quantize: the scale of output " + std::to_string(row) + ", group " +
                      std::to_string(column_group) + " is not finite: the weights are too large for float16 scales"),
        output(row),
        group(column_group) {}
  index_t output;  ///< in the stack
  index_t group;
};

/// A solved stack of linear layers that share their input, and the losses of each output.
template <quantize_backend B>
struct quantized_stack {
  quantized_linear_of<B> linear;
  std::vector<output_loss> losses;  ///< empty where nothing was measured

  /// The report of outputs [first, first + count).
  [[nodiscard]] linear_report report(index_t first, index_t count) const {
    linear_report r = linear.report;
    if (losses.empty()) return r;
    auto const sum = [&](double output_loss::*part) {
      double total = 0;
      for (index_t n = first; n < first + count; ++n) total += losses[static_cast<std::size_t>(n)].*part;
      return total;
    };
    auto const set = [&](double& loss, double output_loss::*part, double output_loss::*whole) {
      double const below = sum(whole);
      if (loss >= 0) loss = below > 0 ? sum(part) / below : 0;
    };
    r.damped_loss = sum(&output_loss::damped);
    set(r.rel_loss, &output_loss::error, &output_loss::energy);
    set(r.rel_loss_rtn, &output_loss::rtn, &output_loss::energy);
    set(r.pass_loss, &output_loss::pass, &output_loss::energy);
    set(r.refined_loss, &output_loss::refined, &output_loss::energy);
    set(r.float_loss, &output_loss::float_error, &output_loss::float_energy);
    return r;
  }
};

}  // namespace v0
}  // namespace gptq
