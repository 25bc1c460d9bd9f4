// A decoder block of Qwen2 from a GPTQ checkpoint, as an engine could have it: the file mapped, the linear layers from
// their packed codes where they lie in it. Of this library only the product from packed codes, beside it Eigen.
#pragma once

#include <gptq/pack/matmul.hpp>

#include <Eigen/Core>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

using gptq::index_t;
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;  // [tokens × features]
using row = Eigen::RowVectorXf;

// A file in memory, read only; the system reads the parts that are looked at.
class mapped_file {
 public:
  explicit mapped_file(std::string const& path) {
    int const file = ::open(path.c_str(), O_RDONLY);
    struct stat info {};
    if (file < 0 || ::fstat(file, &info) != 0) throw std::runtime_error("can't open " + path);
    size_ = static_cast<std::size_t>(info.st_size);
    data_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    ::close(file);
    if (data_ == MAP_FAILED) throw std::runtime_error("can't map " + path);
  }
  mapped_file(mapped_file const&) = delete;
  mapped_file& operator=(mapped_file const&) = delete;
  ~mapped_file() { ::munmap(data_, size_); }
  std::string_view bytes() const { return {static_cast<char const*>(data_), size_}; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

struct tensor {
  std::string_view type;  // "I32", "F16", …
  std::vector<index_t> shape;
  std::byte const* data = nullptr;  // at any alignment
};

// A safetensors file: 8 bytes of length, a JSON header {"name":{"dtype":…,"shape":[…],"data_offsets":[begin,end]},…},
// data. This finds entries by text in a header without blanks, as all common writers make it; an engine has a JSON parser,
// or takes gptq/io/reader.hpp, which checks everything.
class safetensors {
 public:
  explicit safetensors(std::string const& path) : file_(path) {
    std::uint64_t length = 0;
    if (file_.bytes().size() < 8) throw std::runtime_error(path + " is no safetensors file");
    std::memcpy(&length, file_.bytes().data(), 8);
    if (length > file_.bytes().size() - 8) throw std::runtime_error(path + " is cut off");
    header_ = file_.bytes().substr(8, length);
    data_ = file_.bytes().substr(8 + length);
  }

  bool has(std::string const& name) const { return header_.find(key(name)) != header_.npos; }

  tensor operator[](std::string const& name) const {
    auto const at = header_.find(key(name));
    if (at == header_.npos) throw std::runtime_error("the checkpoint has no tensor " + name);
    std::string_view const entry = header_.substr(at, header_.find('}', at) - at);
    auto const type = entry.substr(entry.find("\"dtype\":\"") + 9);
    auto const offsets = numbers(entry, "\"data_offsets\":[");
    if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > static_cast<index_t>(data_.size()))
      throw std::runtime_error("the header's entry of " + name + " can't be read");
    return {type.substr(0, type.find('"')), numbers(entry, "\"shape\":["),
            reinterpret_cast<std::byte const*>(data_.data()) + offsets[0]};
  }

 private:
  static std::string key(std::string const& name) { return '"' + name + "\":{"; }
  static std::vector<index_t> numbers(std::string_view entry, std::string_view key) {
    std::vector<index_t> found;
    bool inside = false;  // of a number
    auto const begin = entry.find(key);
    for (auto at = begin + key.size(); begin != entry.npos && at < entry.size() && entry[at] != ']'; ++at) {
      bool const digit = entry[at] >= '0' && entry[at] <= '9';
      if (digit && !inside) found.push_back(0);
      if (digit) found.back() = found.back() * 10 + (entry[at] - '0');
      inside = digit;
    }
    return found;
  }

  mapped_file file_;
  std::string_view header_, data_;
};

// A vector in float: a norm's weight, a bias.
inline row read_row(tensor const& t) {
  row values(t.shape.at(0));
  for (index_t i = 0; i < values.size(); ++i)
    values[i] = t.type == "F16"    ? gptq::to_float(gptq::load<gptq::float16>(t.data, i))
                : t.type == "BF16" ? gptq::to_float(gptq::load<gptq::bfloat16>(t.data, i))
                                   : gptq::load<float>(t.data, i);
  return values;
}

// What config.json says of the model and its quantization.
struct model_shape {
  index_t heads = 4, kv_heads = 2, head_dim = 32;
  float norm_eps = 1e-6f;
  double rope_base = 1e6;
  int bits = 4, group_size = 128;
  gptq::checkpoint_format format = gptq::checkpoint_format::gptq;
};

// A linear layer: pointers into the mapped file, and the bias.
struct linear {
  gptq::packed_view packed;
  row bias;

  linear(safetensors const& file, std::string const& name, model_shape const& shape) {
    tensor const qweight = file[name + ".qweight"], scales = file[name + ".scales"];
    packed.spec.bits = shape.bits;
    packed.spec.group_size = shape.group_size;
    packed.format = shape.format;
    packed.in_features = file[name + ".g_idx"].shape.at(0);
    packed.out_features = qweight.shape.at(1);
    packed.groups = scales.shape.at(0);
    packed.qweight = qweight.data;
    packed.qzeros = file[name + ".qzeros"].data;
    packed.scales = scales.data;
    packed.g_idx = file[name + ".g_idx"].data;
    if (file.has(name + ".bias")) bias = read_row(file[name + ".bias"]);
  }

  matrix operator()(matrix const& x) const {
    matrix y(x.rows(), packed.out_features);
    // An engine cuts the outputs into ranges for its threads: matmul(packed, first, x, y's columns, bias).
    gptq::matmul(packed, {x.data(), x.rows(), x.cols()}, {y.data(), y.rows(), y.cols()},
                 {bias.data(), static_cast<std::size_t>(bias.size())});
    return y;
  }
};

class decoder_block {
 public:
  decoder_block(safetensors const& file, std::string const& prefix, model_shape const& shape)
      : shape_(shape),
        attention_norm_(read_row(file[prefix + "input_layernorm.weight"])),
        mlp_norm_(read_row(file[prefix + "post_attention_layernorm.weight"])),
        query_(file, prefix + "self_attn.q_proj", shape),
        key_(file, prefix + "self_attn.k_proj", shape),
        value_(file, prefix + "self_attn.v_proj", shape),
        output_(file, prefix + "self_attn.o_proj", shape),
        gate_(file, prefix + "mlp.gate_proj", shape),
        up_(file, prefix + "mlp.up_proj", shape),
        down_(file, prefix + "mlp.down_proj", shape) {}

  // The states [tokens × hidden] of one text from its first token on, after this block.
  matrix operator()(matrix h) const {
    matrix const x = norm(h, attention_norm_);
    h += output_(attention(rotated(query_(x)), rotated(key_(x)), value_(x)));
    matrix const z = norm(h, mlp_norm_), gate = gate_(z);
    h += down_((gate.array() / (1 + (-gate.array()).exp()) * up_(z).array()).matrix());
    return h;
  }

 private:
  matrix norm(matrix const& x, row const& weight) const {
    auto const scale = (x.array().square().rowwise().mean() + shape_.norm_eps).rsqrt().eval();
    return ((x.array().colwise() * scale).rowwise() * weight.array()).matrix();
  }

  // Each head's halves (a, b) turn by position · base^(−2i / head_dim).
  matrix rotated(matrix x) const {
    index_t const half = shape_.head_dim / 2;
    for (index_t t = 0; t < x.rows(); ++t)
      for (index_t i = 0; i < half; ++i) {
        double const angle =
            static_cast<double>(t) * std::pow(shape_.rope_base, -static_cast<double>(i) / static_cast<double>(half));
        auto const c = static_cast<float>(std::cos(angle)), s = static_cast<float>(std::sin(angle));
        for (index_t at = i; at < x.cols(); at += shape_.head_dim) {
          float const a = x(t, at), b = x(t, at + half);
          x(t, at) = c * a - s * b;
          x(t, at + half) = c * b + s * a;
        }
      }
    return x;
  }

  matrix attention(matrix const& query, matrix const& key, matrix const& value) const {
    index_t const size = shape_.head_dim;
    matrix y(query.rows(), query.cols());
    for (index_t head = 0; head < shape_.heads; ++head) {
      index_t const shared = head / (shape_.heads / shape_.kv_heads);
      for (index_t t = 0; t < query.rows(); ++t) {  // a token sees itself and those before it
        row p = query.row(t).segment(head * size, size) * key.block(0, shared * size, t + 1, size).transpose() /
                std::sqrt(static_cast<float>(size));
        p = (p.array() - p.maxCoeff()).exp().matrix();
        y.row(t).segment(head * size, size) = p / p.sum() * value.block(0, shared * size, t + 1, size);
      }
    }
    return y;
  }

  model_shape shape_;
  row attention_norm_, mlp_norm_;
  linear query_, key_, value_, output_, gate_, up_, down_;
};

}  // namespace engine
