/// The order in which input columns are processed.
#pragma once

#include <gptq/core/matrix.hpp>
#include <gptq/core/spec.hpp>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace gptq {
inline namespace v0 {

/// Position → stored input column, for a diagonal of the Hessian (`importance`, one value an input).
/// Ties keep stored order. Group-aware: whole groups by their largest value, inputs by value inside each; a ragged last
/// group stays last and as it is, so that groups remain whole in the order and g_idx trivial in the file.
inline std::vector<std::int32_t> processing_order(quant_spec const& spec, std::span<double const> importance) {
  auto const in = static_cast<index_t>(importance.size());
  std::vector<std::int32_t> order(importance.size());
  std::iota(order.begin(), order.end(), 0);
  auto const more_important = [&](std::int32_t a, std::int32_t b) {
    return importance[static_cast<std::size_t>(a)] > importance[static_cast<std::size_t>(b)];
  };
  if (spec.order == column_order::natural) return order;
  if (spec.order == column_order::desc_act || spec.group_size == -1) {
    std::stable_sort(order.begin(), order.end(), more_important);
    return order;
  }

  index_t const size = spec.group_size;
  index_t const whole = in / size;
  for (index_t g = 0; g < whole; ++g)
    std::stable_sort(order.begin() + g * size, order.begin() + (g + 1) * size, more_important);
  std::vector<std::int32_t> groups(static_cast<std::size_t>(whole));
  std::iota(groups.begin(), groups.end(), 0);
  std::stable_sort(groups.begin(), groups.end(), [&](std::int32_t a, std::int32_t b) {
    return more_important(order[static_cast<std::size_t>(a * size)], order[static_cast<std::size_t>(b * size)]);
  });
  std::vector<std::int32_t> result;
  result.reserve(order.size());
  for (std::int32_t g : groups) result.insert(result.end(), order.begin() + g * size, order.begin() + (g + 1) * size);
  result.insert(result.end(), order.begin() + whole * size, order.end());
  return result;
}

/// The group of each *stored* input: what g_idx holds.
inline std::vector<std::int32_t> group_index(quant_spec const& spec, std::span<std::int32_t const> order) {
  std::vector<std::int32_t> g_idx(order.size(), 0);
  if (spec.group_size == -1) return g_idx;
  for (std::size_t j = 0; j < order.size(); ++j) {
    auto const stored = static_cast<std::size_t>(order[j]);
    auto const position = scattered_groups(spec) ? j : stored;
    g_idx[stored] = static_cast<std::int32_t>(position / static_cast<std::size_t>(spec.group_size));
  }
  return g_idx;
}

}  // namespace v0
}  // namespace gptq
