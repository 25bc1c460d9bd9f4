// Where results go: complete or not at all, and never over something that is not a quantized model.
#include "app/app.hpp"
#include "app/model_copy.hpp"

#include <fcntl.h>
#include <stdlib.h>

#include <poll.h>
#include <cerrno>
#include <csignal>
#include <fstream>

namespace {

using test::app_process;
using test::check_refused;
using test::model_copy;
using test::run_app;
using test::run_well;

/// A run that lasts a second or more.
std::vector<std::string> long_run(model_copy const& m) {
  return {"quantize", m.model().string(), m.output().string(), "--calibration",
          (test::bundled_model() / "calibration.txt").string()};
}

bool well_formed(std::filesystem::path const& folder) { return run_app({"inspect", folder.string()}).code == 0; }

}  // namespace

TEST_CASE("an existing output is refused", "[app]") {
  model_copy const m;
  std::filesystem::create_directory(m.output());
  std::ofstream(m.output() / "letter.txt") << "dear";
  check_refused(run_app(m.small_run()), 1, {m.output().string(), "already exists"});
  CHECK(test::names_in(m.output()) == std::vector<std::string>{"letter.txt"});
  CHECK(test::names_in(m.results()) == std::vector<std::string>{"out"});
}

TEST_CASE("--overwrite replaces a quantized model", "[app]") {
  model_copy const m;
  run_well(m.small_run({"--shard-size", "300KB", "--bits", "8"}));
  run_well(m.small_run({"--overwrite"}));
  CHECK(gptq::read_json(m.output() / "config.json").at("quantization_config").at("bits") == 4);
  CHECK_FALSE(std::filesystem::exists(m.output() / "model.safetensors.index.json"));
  CHECK(well_formed(m.output()));
  CHECK(test::names_in(m.results()) == std::vector<std::string>{"out"});
}

TEST_CASE("--overwrite leaves the old model where the run fails", "[app]") {
  model_copy const m;
  run_well(m.small_run());
  std::string const before = test::file_text(m.output() / "model.safetensors");
  check_refused(run_app(m.small_run({"--overwrite", "--group-size", "256"})), 1, {"group_size"});
  CHECK(test::file_text(m.output() / "model.safetensors") == before);
  CHECK(test::names_in(m.results()) == std::vector<std::string>{"out"});
}

TEST_CASE("--overwrite never replaces anything but a quantized model", "[app]") {
  model_copy const m;
  auto const refused = [&](std::filesystem::path const& target, std::initializer_list<std::string> names) {
    auto const before = m.contents();
    auto arguments = m.small_run({"--overwrite"});
    arguments[2] = target.string();
    check_refused(run_app(arguments), 1, names);
    CHECK(m.contents() == before);
    CHECK(test::names_in(m.folder().path()) == std::vector<std::string>{"model", "results"});
  };
  refused(m.model(), {"source"});
  refused(m.folder().path(), {"source"});
  refused(m.model() / "inside", {"source"});
  std::filesystem::create_directory(m.output());
  std::ofstream(m.output() / "config.json") << "{}";
  refused(m.output(), {"does not hold a quantized model"});
  std::filesystem::remove_all(m.output());
  std::ofstream(m.output()) << "a file";
  refused(m.output(), {"is not a folder"});
  std::filesystem::remove(m.output());
  std::filesystem::create_directory_symlink(m.model(), m.output());
  refused(m.output(), {m.output().string()});
}

TEST_CASE("a disk that is full leaves nothing behind", "[app]") {
  model_copy const m;
  auto const before = m.contents();
  // Room for the tensors that stay in float or not even for those.
  rlim_t const limit = GENERATE(rlim_t{100'000}, rlim_t{400'000});
  auto const r = run_app(m.small_run(), {.file_limit = limit, .out_file = {}});
  INFO(r.err);
  CHECK(r.signal == 0);
  CHECK(r.code == 1);
  CHECK(r.out.empty());
  CHECK_THAT(r.err, test::contains("can't write") && test::contains("File too large"));
  CHECK(test::names_in(m.results()).empty());
  CHECK(m.contents() == before);
}

TEST_CASE("a signal stops the run and leaves nothing behind", "[app]") {
  model_copy const m;
  auto const before = m.contents();
  int const signal = GENERATE(SIGINT, SIGTERM, SIGHUP);
  app_process p(long_run(m));
  REQUIRE(p.wait_for("block 1 of 4"));
  CHECK(test::names_in(m.results()).size() == 1);
  p.send(signal);
  auto const r = p.finish();
  INFO(r.err);
  CHECK(r.signal == signal);
  CHECK(r.out.empty());
  CHECK_THAT(r.err, test::contains("nothing was written"));
  CHECK(test::names_in(m.results()).empty());
  CHECK(m.contents() == before);
}

TEST_CASE("of two runs with one target, one result is there and whole", "[app]") {
  model_copy const m;
  bool const overwrite = GENERATE(false, true);
  auto four = m.small_run({"--bits", "4"});
  auto eight = m.small_run({"--bits", "8"});
  if (overwrite) {
    four.push_back("--overwrite");
    eight.push_back("--overwrite");
  }
  app_process first(four), second(eight);
  auto const a = first.finish(), b = second.finish();
  INFO(a.err << b.err);
  CHECK(well_formed(m.output()));
  auto const bits = gptq::read_json(m.output() / "quantize_config.json").at("bits").get<int>();
  if (overwrite) {
    CHECK(a.code == 0);
    CHECK(b.code == 0);
    CHECK(test::names_in(m.results()) == std::vector<std::string>{"out"});
  } else {
    CHECK(a.code + b.code == 1);
    CHECK(bits == (a.code == 0 ? 4 : 8));
    CHECK_THAT(a.code == 0 ? b.err : a.err, test::contains("already exists"));
    // The loser may have found out at its end: then it says where its own result is.
    for (auto const& name : test::names_in(m.results())) {
      if (name == "out") continue;
      CHECK_THAT(a.code == 0 ? b.err : a.err, test::contains(name));
      CHECK(well_formed(m.results() / name));
    }
  }
}

TEST_CASE("folders above the output are made, and go again where the run fails", "[app]") {
  model_copy const m;
  auto arguments = m.small_run();
  arguments[2] = (m.results() / "a" / "b" / "out").string();
  run_well(arguments);
  CHECK(well_formed(arguments[2]));
  arguments[2] = (m.results() / "c" / "d" / "out").string();
  arguments.insert(arguments.end(), {"--dtype", "float16"});
  m.edit_weights([](test::tensor_file& f) { f.set("model.norm.weight", 0, "\x80\x47"); });
  check_refused(run_app(arguments), 1, {"float16"});
  CHECK(test::names_in(m.results()) == std::vector<std::string>{"a"});
}

TEST_CASE("an output that can't be made is refused", "[app]") {
  model_copy const m;
  auto arguments = m.small_run();
  std::ofstream(m.results() / "file") << "x";
  arguments[2] = (m.results() / "file" / "out").string();
  check_refused(run_app(arguments), 1, {"file"});
  arguments[2] = "";
  check_refused(run_app(arguments), 1, {"output"});
}

TEST_CASE("on a terminal progress is one line that is refreshed", "[app]") {
  model_copy const m;
  int const terminal = ::posix_openpt(O_RDWR | O_NOCTTY);
  REQUIRE(terminal >= 0);
  REQUIRE(::grantpt(terminal) == 0);
  REQUIRE(::unlockpt(terminal) == 0);
  int const other_end = ::open(::ptsname(terminal), O_RDWR | O_NOCTTY);
  REQUIRE(other_end >= 0);
  std::string shown;
  test::run_result r;
  {
    app_process p(m.small_run({"--engine", "vllm"}), {.out_file = {}, .err_descriptor = other_end});
    std::thread reader([&] {
      char buffer[4096];
      for (;;) {
        pollfd ready{terminal, POLLIN, 0};
        if (::poll(&ready, 1, 60'000) <= 0) break;
        ssize_t const n = ::read(terminal, buffer, sizeof buffer);
        if (n <= 0) break;  // EIO once nobody has the other end open
        shown.append(buffer, static_cast<std::size_t>(n));
      }
    });
    r = p.finish();
    ::close(other_end);
    reader.join();
  }
  ::close(terminal);
  INFO(shown);
  CHECK(r.code == 0);
  CHECK_THAT(r.out, test::contains("relative loss"));
  CHECK_THAT(shown,
             test::contains("\r\x1b[Kblock 1 of 4, q_proj") && test::contains("tokens/s") && test::contains(" left"));
  CHECK(shown.find('\n') == std::string::npos);
  std::string const cleared = "\r\x1b[K";
  CHECK(shown.substr(shown.size() - cleared.size()) == cleared);
}
