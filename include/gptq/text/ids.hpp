/// Calibration and evaluation samples that are token ids already: JSON lines. Needs no tokenizer.
#pragma once

#include <gptq/core/error.hpp>
#include <gptq/io/json.hpp>
#include <gptq/text/calibration_set.hpp>
#include <gptq/text/text_file.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace gptq {
inline namespace v0 {

/// One record's ids. `where` names file and line in the format_error thrown for what is no list of ids of a vocabulary.
inline std::vector<std::int32_t> ids_of_record(json const& record, index_t vocabulary_size, std::string const& where) {
  json const* list = &record;
  if (record.is_object()) {
    auto const found = record.find("input_ids");
    if (found == record.end()) throw format_error(where + ": \"input_ids\" is missing");
    list = &*found;
  }
  if (!list->is_array())
    throw format_error(where + ": {\"input_ids\": [...]} or [...] is needed, not " + list->type_name());
  std::vector<std::int32_t> ids;
  ids.reserve(list->size());
  for (json const& element : *list) {
    std::int32_t id = 0;
    if (!detail::convert(element, id) || id < 0 || id >= vocabulary_size)
      throw format_error(where + ": position " + std::to_string(ids.size()) + " holds " +
                         detail::printable(element.dump(-1, ' ', false, json::error_handler_t::replace), 40) +
                         ", an id must be an integer from 0 to " + std::to_string(vocabulary_size - 1));
    ids.push_back(id);
  }
  return ids;
}
inline std::vector<std::int32_t> parse_ids(std::string_view line, index_t vocabulary_size, std::string const& where) {
  return ids_of_record(parse_json(line, where), vocabulary_size, where);
}

/// Reads a file with {"input_ids": […]} or […] on each line: the first `samples` that are not empty, each cut to
/// `sequence_length`. Ids must lie below `vocabulary_size`, the embedding rows of the model. Throws format_error naming
/// file and line, also where there is no id at all.
inline calibration_set read_ids(std::filesystem::path const& file, index_t vocabulary_size,
                                calibration_options const& options = {}) {
  calibration_set set = detail::start_calibration(options);
  line_reader lines(file);
  for (std::string line; !set.full() && lines.next(line);) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    set.add(parse_ids(line, vocabulary_size, file.string() + ": line " + std::to_string(lines.number())),
            options.sequence_length);
  }
  if (set.samples.empty()) throw format_error(file.string() + ": no token ids");
  return set;
}

}  // namespace v0
}  // namespace gptq
