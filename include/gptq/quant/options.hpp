/// The settings of a solve beyond the spec, and the two presets.
#pragma once

#include <gptq/core/grid.hpp>
#include <gptq/core/spec.hpp>

namespace gptq {
inline namespace v0 {

/// How codes and scales are found, whatever the file says of them.
struct quantize_options {
  double damp_percent = 0.01;  ///< λ as a fraction of mean(diag H)
  grid_options grid = {};
  /// The reference's treatment of inputs that were never active: their diagonal becomes 1 (an absolute number, so that
  /// the scale 2 / sequences of H matters) and counts in the mean. Otherwise they get the mean of the live ones.
  bool reference_dead = false;
  int reestimations = 0;   ///< scale re-estimations after the pass
  int descent_passes = 0;  ///< coordinate-descent passes: every code anew, given all others
  bool measure = true;     ///< compute rel_loss and rel_loss_rtn, at the cost of two more products with the factor
};

/// Asymmetric calibration (GPTAQ, arXiv 2504.02692): how far a solve aims away from the weights at what the float model
/// computes, as fractions of the full correction. Both need the float model's inputs beside those of the quantized one.
struct asymmetric_options {
  double target = 0;    ///< α: of what the inputs have moved
  double residual = 0;  ///< β: of what the residual stream has moved, for layers that write to it

  [[nodiscard]] constexpr bool any() const { return target != 0 || residual != 0; }
};

/// Everything that one solve is told: which codes to find, and how.
struct solver_settings {
  quant_spec spec = {};
  quantize_options options = {};
  asymmetric_options asymmetric = {};  ///< counts where a problem has asymmetric_sums
};

/// Everything that a preset decides.
struct preset {
  column_order order;
  quantize_options options;
  asymmetric_options shift = {};
};

/// The best file at no cost at inference.
inline constexpr preset default_preset{.order = column_order::group_aware, .options = {}};

/// The smallest divergence from the float model in the same file format, at two to three times the time.
inline constexpr preset best_preset{.order = column_order::group_aware,
                                    .options = {.reestimations = 1, .descent_passes = 2},
                                    .shift = {.target = 1, .residual = 0.5}};

/// The behaviour of the public reference (IST-DASLab/gptq), quirks included.
inline constexpr preset parity_preset{
    .order = column_order::natural,
    .options = {.grid = {.mse = 0, .round_scales = false, .reference_range = true}, .reference_dead = true}};

}  // namespace v0
}  // namespace gptq
