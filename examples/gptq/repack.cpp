/// gptq repack: another format or other shards for a quantized folder, without quantizing again.
#include "app.hpp"
#include "console.hpp"
#include "quantize_options.hpp"
#include "remedy.hpp"
#include "size.hpp"

#include <gptq/quantize/repack.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <memory>
#include <string>

namespace app {
namespace {

struct repack_arguments {
  std::string model, output, format;
  std::string shard_size = "4GB";
  bool overwrite = false;
};

int repack(repack_arguments const& a) {
  gptq::repack_options options;
  if (!a.format.empty()) options.format = *gptq::find_format(a.format);
  options.shard_size = parse_size("--shard-size", a.shard_size);
  options.overwrite = a.overwrite;
  auto const report = gptq::repack(a.model, a.output, options);
  for (gptq::advice const& w : report.warnings) warn(with_options(w));
  fmt::print("{}, {} -> {}, {}\nwritten to {}\n", counted(static_cast<std::int64_t>(report.layers), "quantized layer"),
             to_string(report.from), to_string(report.to), megabytes(report.bytes), a.output);
  return success;
}

}  // namespace

void add_repack(CLI::App& root, action& run) {
  auto const a = std::make_shared<repack_arguments>();
  CLI::App* const command = root.add_subcommand(
      "repack", "Write a quantized folder in another format or other shards; codes stay as they are");
  command->add_option("model", a->model, "Quantized model folder")->required()->type_name("");
  command->add_option("output", a->output, "Folder to write; must not exist")->required()->type_name("");
  command->add_option("--format", a->format, "gptq, gptq_v2 or compressed-tensors; default: as found")
      ->check(CLI::IsMember(gptq::format_names()))
      ->type_name("NAME");
  command->add_option("--shard-size", a->shard_size, "Largest file of weights: 4GB, 500MB, 2GiB, bytes")
      ->capture_default_str()
      ->type_name("SIZE");
  command->add_flag("--overwrite", a->overwrite, "Replace the output if it holds a quantized model");
  command->callback([a, &run] { run = [a] { return repack(*a); }; });
}

}  // namespace app
