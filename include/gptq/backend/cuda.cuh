/// The CUDA backend: cuBLAS for products, cuSOLVER for the one Cholesky, own kernels for the rest. Include it from a .cu
/// file; needs nvcc 12 or later, a device of compute capability 8.0 or later, and the target gptq::cuda.
#pragma once

#if !defined(__CUDACC__)
#error "gptq: gptq/backend/cuda.cuh holds device code; include it from a .cu file compiled by nvcc 12 or later"
#endif

#include <gptq/backend/cuda/cholesky.cuh>
#include <gptq/backend/cuda/column_block.cuh>
#include <gptq/backend/cuda/context.cuh>
#include <gptq/backend/cuda/gather.cuh>
#include <gptq/backend/cuda/grid_fit.cuh>
#include <gptq/backend/cuda/pack.cuh>
#include <gptq/backend/cuda/pinned.cuh>
#include <gptq/backend/cuda/products.cuh>
#include <gptq/backend/cuda/refining.cuh>
#include <gptq/core/refining.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace gptq {
inline namespace v0 {

/// What the context, the libraries and their workspaces take on a device beside the matrices of a backend, rounded up.
inline constexpr std::size_t cuda_overhead_bytes = std::size_t(1) << 30;

/// Models quantize_backend, refining_backend and fusing_backend in the memory of one device. An object owns its stream, library handles, workspace and arena;
/// nothing is global, and after the first layers nothing is allocated. Work is asynchronous: verbs that return a value or
/// fill host memory wait, others do not. One object serves one thread at a time, with its device current in that thread.
/// Failures are device_error, those of memory device_memory_error; after either the object can't be relied on.
class cuda_backend {
 public:
  using scalar = float;
  using space = cuda_space;
  template <class T>
  using matrix_type = device_matrix<T>;
  template <class T>
  using view = device_view<T>;

  explicit cuda_backend(cuda_options const& options = {}) : context_(std::make_shared<detail::cuda_context>(options)) {
    auto const& device = context_->properties();
    if (device.sharedMemPerBlockOptin < sizeof(detail::column_tile))
      throw device_error(std::string(device.name) + " has " + std::to_string(device.sharedMemPerBlockOptin >> 10) +
                         " KiB of shared memory for a block, " + std::to_string(sizeof(detail::column_tile) >> 10) +
                         " are needed");
  }

  template <class T>
  device_matrix<T> make(index_t rows, index_t cols) {
    return context_->make<T>(rows, cols);
  }
  template <class T>
  void upload(matrix_view<T> from, view<std::remove_const_t<T>> to) {
    transfer(from, to, [&](auto... a) { context_->pinned().upload(a..., context_->stream()); });
  }
  /// Elements as they lie in a file, at any alignment: rows of `to`, one after the other.
  template <class T>
  void upload_bytes(std::span<std::byte const> from, view<T> to) {
    std::size_t const width = std::size_t(to.cols) * sizeof(T);
    if (from.size() != width * std::size_t(to.rows)) throw shape_error("upload_bytes: sizes differ");
    context_->pinned().upload(from.data(), width, to.data, std::size_t(to.stride) * sizeof(T), width,
                              std::size_t(to.rows), context_->stream());
  }
  template <class T>
  void download(view<T> from, matrix_view<std::remove_const_t<T>> to) {
    using element = std::remove_const_t<T>;
    if (from.cols == 1 && from.rows > 1 && to.stride == 1) {  // a column or a diagonal travels as one piece
      auto packed = make<element>(1, from.rows);
      detail::elementwise(*context_, 1, from.rows, detail::pack_column_element<element>{from, packed.data()});
      return download(packed, matrix_view<element>(to.data, 1, to.rows));
    }
    transfer(from, to, [&](auto... a) { context_->pinned().download(a..., context_->stream()); });
  }
  template <class T>
  void download(device_matrix<T> const& from, matrix_view<T> to) {
    download(from.view(), to);
  }

  // Beside the work. Contiguous views; the host's are of make_pinned, or lie in a file.
  template <class T>
  pinned_matrix<T> make_pinned(index_t rows, index_t cols) {
    return {context_->arena(), rows, cols};
  }
  /// Copies in the order of the other work, without a wait.
  template <class T>
  void fetch(matrix_view<T> from, view<T> to) {
    detail::copy_contiguous(from, to, cudaMemcpyHostToDevice, stream());
  }
  template <class T>
  void store(view<T> from, matrix_view<T> to) {
    detail::copy_contiguous(from, to, cudaMemcpyDeviceToHost, stream());
  }
  /// A copy that begins after the work so far and runs beside what follows, until join_fetch().
  template <class T>
  void fetch_ahead(matrix_view<T> from, view<T> to) {
    context_->fetches().fork(stream());
    detail::copy_contiguous(from, to, cudaMemcpyHostToDevice, context_->fetches().get());
  }
  void join_fetch() { context_->fetches().join(stream()); }
  /// The same for upload_bytes. begin and end are called where all other verbs are, upload_ahead in another thread
  /// between the two.
  void begin_upload_ahead() { context_->uploads().stream.fork(stream()); }
  template <class T>
  void upload_ahead(std::span<std::byte const> from, view<T> to) {
    detail::check(cudaSetDevice(context_->options().device), "cudaSetDevice");
    auto& lane = context_->uploads();
    std::size_t const width = std::size_t(to.cols) * sizeof(T);
    if (from.size() != width * std::size_t(to.rows)) throw shape_error("upload_ahead: sizes differ");
    lane.pinned.upload(from.data(), width, to.data, std::size_t(to.stride) * sizeof(T), width, std::size_t(to.rows),
                       lane.stream.get());
  }
  void end_upload_ahead() { context_->uploads().stream.join(stream()); }

  template <class T>
  void fill(view<T> x, std::type_identity_t<T> value) {
    detail::elementwise(*context_, x.rows, x.cols, detail::fill_element<T>{x, value});
  }
  template <class T>
  void fill(device_matrix<T>& x, std::type_identity_t<T> value) {
    fill(x.view(), value);
  }
  template <class T>
  void copy(view<T> from, view<std::remove_const_t<T>> to) {
    detail::copy_matrix<std::remove_const_t<T>>(*context_, from, to);
  }
  template <class T>
  void add(float alpha, view<T> x, view<std::remove_const_t<T>> y) {
    using element = std::remove_const_t<T>;
    detail::elementwise(*context_, x.rows, x.cols, detail::add_element<element>{alpha, x, y});
  }

  template <class T>
  bool all_finite(view<T const> x) {
    return detail::all_finite(*context_, x);
  }
  template <class T>
  void add_gram(view<T const> x, view<float> gram, bool fresh = false) {
    detail::add_gram(*context_, x, gram, fresh);
  }
  void pack_lower(view<float const> gram, view<float> packed) {
    detail::packed_triangle<false>(*context_, {const_cast<float*>(gram.data), gram.rows, gram.cols, gram.stride},
                                   packed);
  }
  void add_packed(view<float const> packed, view<float> gram) {
    detail::packed_triangle<true>(*context_, gram,
                                  {const_cast<float*>(packed.data), packed.rows, packed.cols, packed.stride});
  }
  bool factorize_hessian(view<float const> gram, view<std::int32_t const> order, double scale,
                         matrix_view<float const> diagonal, precision p, view<float> f, view<float> pivots) {
    auto on_device = make<float>(1, diagonal.cols);
    upload(diagonal, on_device.view());
    detail::gather_hessian(*context_, gram, order, scale, on_device, f);
    if (!detail::cholesky(*context_, f, p)) return false;
    detail::propagation_from_cholesky(*context_, f, pivots);
    return true;
  }

  template <class W>
  void gather_weights(view<W const> w, view<std::int32_t const> order, view<std::uint8_t const> live, view<float> out) {
    detail::gather_weights(*context_, w, order, live, out);
  }
  template <int Bits, bool Sym>
  void fit_grid(view<float const> values, grid_options const& options, view<float> scales, view<std::uint8_t> zeros) {
    detail::fit_grid<Bits, Sym>(*context_, values, options, scales, zeros);
  }
  /// Blocks that are wider than one kernel's tile go tile by tile, with a product between.
  template <int Bits, class Derived>
  void quantize_block(column_block<Derived> const& b) {
    index_t const rows = b.weights.rows;
    constexpr index_t tile = detail::tile_columns;
    bool const several = rows > tile && b.propagation.data;
    auto own = several ? make<float>(tile, b.weights.cols) : device_matrix<float>();
    for (index_t p = 0; p < rows; p += tile) {
      index_t const n = (std::min)(tile, rows - p);
      view<float const> correction = b.correction.row_range(p, n);
      if (several && p > 0) {
        auto const sum = own.view().row_range(0, n);
        copy(correction, sum);
        multiply_add(1.0f, b.propagation.block(p, 0, n, p), transpose::no, b.weights.row_range(0, p), sum);
        correction = sum;
      }
      detail::quantize_tile<Bits>(*context_, arguments(b, p, n, correction));
    }
  }
  static constexpr index_t fused_columns = detail::tile_columns;
  template <int Bits, bool Sym, class Derived>
  void fit_and_quantize_block(column_block<Derived> const& b, index_t group_size, grid_options const& options,
                              view<float>, view<std::uint8_t>) {
    constexpr auto source = Sym ? detail::grid_source::fit_sym : detail::grid_source::fit_asym;
    detail::quantize_tile<Bits, source>(*context_, arguments(b, 0, b.weights.rows, b.correction),
                                        {options, int(group_size)});
  }
  void multiply_add(float alpha, view<float const> a, transpose t, view<float const> x, view<float> y) {
    if (t == transpose::yes)
      detail::multiply_add_transposed(*context_, alpha, a, x, y);
    else
      detail::multiply_add(*context_, alpha, a, x, y);
  }
  void solve_unit_lower(view<float const> f, view<float> x) {
    constexpr index_t tile = detail::tile_columns;
    for (index_t p = 0; p < f.rows; p += tile) {
      index_t const n = (std::min)(tile, f.rows - p);
      if (p > 0) multiply_add(-1.0f, f.block(p, 0, n, p), transpose::no, x.row_range(0, p), x.row_range(p, n));
      detail::solve_tile(*context_, f.block(p, p, n, n), x.row_range(p, n));
    }
  }
  void add_squares(view<float const> f, view<float const> x, view<float const> weights, view<double> sums) {
    if (f.data)
      detail::add_squares_of_product(*context_, f, x, weights, outer_block, sums);
    else
      detail::add_squares(*context_, x, weights, sums);
  }
  /// All outputs at once: they fill the device together.
  template <class F>
  void for_each_tile(index_t outputs, F&& f) {
    if (outputs > 0) f(index_t(0), outputs);
  }
  static constexpr index_t outer_block = 512;

  static constexpr bool refines = true;
  template <class T>
  void add_cross(view<T const> x, view<T const> y, view<float> out) {
    detail::add_cross<T>(*context_, x, y, out);
  }
  void gather_rows(view<float const> x, view<std::int32_t const> order, view<float> out) {
    detail::elementwise(*context_, out.rows, out.cols, detail::gather_row_element{x, order.data, out});
  }
  void scale_rows(view<float const> weights, view<float> x) {
    detail::elementwise(*context_, x.rows, x.cols, detail::scale_row_element{weights.data, x});
  }
  void normalize_hessian(view<float const> gram, view<std::int32_t const> order, double scale,
                         matrix_view<float const> diagonal, view<float> others, view<float> lower) {
    auto divisors = make<float>(1, diagonal.cols);
    upload(diagonal, divisors.view());
    detail::elementwise(*context_, others.rows, others.cols,
                        detail::gather_normalized_element{gram, order.data, scale, divisors.data(), others});
    detail::elementwise(*context_, lower.rows, lower.cols, detail::split_block_element{others, lower});
  }
  void add_dequantized(float alpha, view<std::uint8_t const> codes, view<std::uint8_t const> zeros,
                       view<float const> scales, view<std::int32_t const> groups, view<std::int32_t const> order,
                       view<float> y) {
    detail::elementwise(*context_, y.rows, y.cols,
                        detail::add_dequantized_element{alpha, codes, zeros, scales, groups.data, order.data, y});
  }
  void add_products(view<float const> x, view<float const> y, view<float const> weights, view<double> sums) {
    detail::add_products(*context_, x, y, weights, sums);
  }
  void reestimate_scales(view<double const> gradient, view<double const> curvature, bool round, view<float> scales) {
    detail::elementwise(*context_, 1, scales.cols,
                        detail::reestimate_scale_element{gradient, curvature, round, scales});
  }

  /// Waits until all work is done; errors of earlier kernels show here at the latest.
  void synchronize() { context_->synchronize(); }
  [[nodiscard]] std::string device_name() const { return context_->properties().name; }
  [[nodiscard]] std::size_t memory_budget() const { return context_->arena()->budget(); }
  [[nodiscard]] std::size_t memory_in_use() const { return context_->arena()->used(); }
  [[nodiscard]] std::size_t peak_memory() const { return context_->arena()->peak(); }
  /// The most that was in use of the whole device: beside matrices the context, the libraries, and other programs.
  [[nodiscard]] std::size_t device_peak_memory() const { return context_->arena()->device_peak(); }
  [[nodiscard]] cudaStream_t stream() const { return context_->stream(); }
  [[nodiscard]] std::shared_ptr<detail::cuda_context> const& context() const { return context_; }

 private:
  /// Columns [p, p + n) of a block. Grids found by the kernel go where given ones come from.
  template <class Derived>
  static detail::column_arguments arguments(column_block<Derived> const& b, index_t p, index_t n,
                                            view<float const> correction) {
    auto const writable = [](auto v) {
      using T = std::remove_const_t<typename decltype(v)::value_type>;
      return view<T>(const_cast<T*>(v.data), v.rows, v.cols, v.stride);
    };
    return {.propagation = b.propagation.data ? b.propagation.block(p, p, n, n) : b.propagation,
            .correction = correction,
            .pivots = b.pivots.data + (b.pivots.data ? p : 0),
            .excess = b.excess.data + (b.excess.data ? p : 0),
            .groups = b.groups.data + p,
            .order = b.order.data + p,
            .scales = writable(b.scales),
            .zeros = writable(b.zeros),
            .weights = b.weights.row_range(p, n),
            .codes = b.codes,
            .losses = b.losses};
  }

  template <class From, class To, class Copy>
  static void transfer(From from, To to, Copy&& copy) {
    using T = std::remove_const_t<typename From::value_type>;
    if (from.rows == 0 || from.cols == 0) return;
    std::size_t width = std::size_t(from.cols) * sizeof(T);
    std::size_t rows = std::size_t(from.rows);
    if (rows == 1) {
      copy(from.data, width, to.data, width, width, rows);
      return;
    }
    copy(from.data, std::size_t(from.stride) * sizeof(T), to.data, std::size_t(to.stride) * sizeof(T), width, rows);
  }

  std::shared_ptr<detail::cuda_context> context_;
};

static_assert(refining_backend<cuda_backend> && refines_as_promised<cuda_backend>);
static_assert(fusing_backend<cuda_backend> && fuses_as_promised<cuda_backend>);

/// The overloads of gptq/pack for layers on the device; the same tensors, bit for bit, and the same errors.
inline packed_linear pack(cuda_backend& b, device_linear const& q, checkpoint_format format, index_t first,
                          index_t count) {
  return detail::packing(b.context(), q, format, first, count).get();
}
inline packed_linear pack(cuda_backend& b, device_linear const& q, checkpoint_format format) {
  return pack(b, q, format, 0, q.out_features());
}
inline device_linear unpack(cuda_backend& b, packed_linear const& p) { return detail::unpack(*b.context(), p); }

/// Outputs [first, first + out.rows) of a layer into out [outputs × in], float or a 16-bit type.
template <class T>
void dequantize(cuda_backend& b, device_linear const& q, index_t first, device_view<T> out) {
  detail::dequantize<false>(*b.context(), q, first, out);
}
template <class T = float>
device_matrix<T> dequantize(cuda_backend& b, device_linear const& q) {
  auto out = b.make<T>(q.out_features(), q.in_features());
  dequantize(b, q, 0, out.view());
  return out;
}

}  // namespace v0
}  // namespace gptq
