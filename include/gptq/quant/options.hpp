/// The settings of a solve beyond the spec, and the two presets.
#pragma once

#include <gptq/core/grid.hpp>
#include <gptq/core/spec.hpp>

namespace gptq {
inline namespace v0 {

struct quantize_options {
  double damp_percent = 0.01;  ///< λ as a fraction of mean(diag H)
  grid_options grid = {};
  /// The reference's treatment of inputs that were never active: their diagonal becomes 1 (an absolute number, so that
  /// the scale 2 / sequences of H matters) and counts in the mean. Otherwise they get the mean of the live ones.
  bool reference_dead = false;
  bool measure = true;  ///< compute rel_loss and rel_loss_rtn, at the cost of two more products with the factor
};

/// Everything that a preset decides.
struct preset {
  column_order order;
  quantize_options options;
};

/// The best file at no cost at inference.
inline constexpr preset default_preset{.order = column_order::group_aware, .options = {}};

/// The behaviour of the public reference (IST-DASLab/gptq), quirks included.
inline constexpr preset parity_preset{
    .order = column_order::natural,
    .options = {.grid = {.mse = 0, .round_scales = false, .reference_range = true}, .reference_dead = true}};

}  // namespace v0
}  // namespace gptq
