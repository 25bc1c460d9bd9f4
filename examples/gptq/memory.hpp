/// How much memory this process uses, as the kernel counts it.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>

namespace app {

/// A line of /proc/self/status in bytes, 0 where the kernel has none: "VmHWM" is the peak of resident memory, mapped
/// files included; "RssAnon" what is resident now and not of a file.
inline std::uint64_t memory_status(std::string_view key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with(key) || line.size() <= key.size() || line[key.size()] != ':') continue;
    std::size_t const digit = line.find_first_of("0123456789", key.size());
    std::uint64_t kib = 0;
    if (digit != std::string::npos) std::from_chars(line.data() + digit, line.data() + line.size(), kib);
    return kib * 1024;
  }
  return 0;
}

/// The kernel keeps no peak of anonymous memory: it is looked at from time to time.
class memory_watch {
 public:
  void sample() { anonymous_ = (std::max)(anonymous_, memory_status("RssAnon")); }
  [[nodiscard]] std::uint64_t peak_anonymous() const { return anonymous_; }
  [[nodiscard]] std::uint64_t peak_resident() const { return memory_status("VmHWM"); }

 private:
  std::uint64_t anonymous_ = 0;
};

}  // namespace app
