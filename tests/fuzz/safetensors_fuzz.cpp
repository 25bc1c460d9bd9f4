// Opens any bytes as a safetensors file and touches all of its data. Build and run by hand:
//   clang++ -std=c++20 -O1 -g -fsanitize=fuzzer,address,undefined -Iinclude tests/fuzz/safetensors_fuzz.cpp -o fuzz
//   ./fuzz -max_len=4096 corpus/
#include <gptq/io/safetensors.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  // The first bytes are the header's length: made to fit most of the time, or hardly any input would get further.
  std::string bytes(reinterpret_cast<char const*>(data), size);
  if (size >= 8 && bytes[7] != 0) {
    std::size_t const header = size - 8 > 0 ? static_cast<unsigned char>(bytes[0]) % (size - 8) : 0;
    for (std::size_t i = 0; i < 8; ++i) bytes[i] = i == 0 ? static_cast<char>(header) : '\0';
  }
  int const file = ::memfd_create("fuzz", 0);
  if (file < 0 || ::write(file, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) std::abort();
  try {
    gptq::safetensors_file const f("/proc/self/fd/" + std::to_string(file));
    unsigned sum = 0;
    for (gptq::tensor_view const& t : f.tensors()) {
      for (std::byte const b : t.bytes) sum += unsigned(b);
      if (gptq::is_float(t.type) && (t.shape.size() == 1 || t.shape.size() == 2)) (void)gptq::to_float(t);
    }
    [[maybe_unused]] volatile unsigned const used = sum;
  } catch (gptq::error const&) {
  }
  ::close(file);
  return 0;
}
