/// Calibration samples from records: conversations in the spellings of the field, plain texts, token ids.
///
///   {"messages": [{"role", "content"}]}            {"conversations": [{"from", "value"}], "system"}   ShareGPT
///   {"dialog": [{"role", "content"}], "system"}    {"instruction", "input", "output", "history"}      TeleChat2, Alpaca
///   {"text": "…"}                                  {"input_ids": […]}
#pragma once

#include <gptq/io/json.hpp>
#include <gptq/text/calibration.hpp>
#include <gptq/text/chat_format.hpp>
#include <gptq/text/ids.hpp>

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace gptq {
inline namespace v0 {

/// The role of that name in data: human is the user; bot, gpt and model are the assistant. Nothing for tools and others.
inline std::optional<chat_role> parse_role(std::string_view name) {
  if (name == "system") return chat_role::system;
  if (name == "user" || name == "human") return chat_role::user;
  if (name == "assistant" || name == "bot" || name == "gpt" || name == "model") return chat_role::assistant;
  return std::nullopt;
}

namespace detail {

/// A text, or a list of parts of type text.
inline std::string chat_text(json const& value, std::string const& where) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_null()) return {};
  if (!value.is_array()) throw format_error(where + ": a text is needed, not " + value.type_name());
  std::string out;
  for (json const& part : value) {
    if (!part.is_object() || !part.contains("text") || !part.at("text").is_string())
      throw format_error(where + ": a part of the content is no text");
    out += part.at("text").get_ref<std::string const&>();
  }
  return out;
}

inline chat_turn parse_turn(json const& turn, std::string const& where) {
  if (!turn.is_object()) throw format_error(where + ": a turn is not an object");
  auto const key = [&](char const* a, char const* b) -> json const& {
    for (char const* const k : {a, b})
      if (turn.contains(k)) return turn.at(k);
    throw format_error(where + ": a turn has neither \"" + a + "\" nor \"" + b + "\"");
  };
  json const& role = key("role", "from");
  auto const known = role.is_string() ? parse_role(role.get_ref<std::string const&>()) : std::nullopt;
  if (!known)
    throw format_error(where + ": role " + printable(role.dump(-1, ' ', false, json::error_handler_t::replace), 40) +
                       " is not supported (system, user, human, assistant, bot, gpt, model are)");
  return {*known, chat_text(key("content", "value"), where)};
}

}  // namespace detail

/// The turns of a record, none if all are empty; nothing if the record is no conversation.
inline std::optional<conversation> parse_conversation(json const& record, std::string const& where) {
  conversation turns;
  auto const text = [&](char const* key) {
    return record.contains(key) ? detail::chat_text(record.at(key), where) : std::string();
  };
  if (std::string const system = text("system"); !system.empty()) turns.push_back({chat_role::system, system});
  auto const add_pair = [&](std::string question, std::string answer) {
    if (!question.empty()) turns.push_back({chat_role::user, std::move(question)});
    if (!answer.empty()) turns.push_back({chat_role::assistant, std::move(answer)});
  };
  for (char const* const key : {"messages", "conversations", "conversation", "dialog"}) {
    if (!record.contains(key)) continue;
    if (!record.at(key).is_array()) throw format_error(where + ": \"" + std::string(key) + "\" is not a list");
    for (json const& turn : record.at(key)) {
      chat_turn t = detail::parse_turn(turn, where);
      if (t.role == chat_role::system && !turns.empty() && turns.front().role == chat_role::system) {
        if (turns.size() > 1) throw format_error(where + ": a system turn after the first");
        turns.clear();  // the one among the turns counts
      } else if (t.role == chat_role::system && !turns.empty()) {
        throw format_error(where + ": a system turn after the first");
      }
      if (!t.content.empty()) turns.push_back(std::move(t));
    }
    if (turns.size() == 1 && turns.front().role == chat_role::system) turns.clear();
    return turns;
  }
  if (!record.contains("instruction")) return std::nullopt;
  if (record.contains("history") && record.at("history").is_array())
    for (json const& round : record.at("history")) {
      if (!round.is_array() || round.size() != 2) throw format_error(where + ": \"history\" is not a list of pairs");
      add_pair(detail::chat_text(round[0], where), detail::chat_text(round[1], where));
    }
  std::string const input = text("input");
  std::string question = text("instruction");
  if (!input.empty()) question += (question.empty() ? "" : "\n") + input;
  add_pair(std::move(question), text("output"));
  if (turns.size() == 1 && turns.front().role == chat_role::system) turns.clear();
  return turns;
}

/// Reads records until the set is full: a JSON array (or one object) where the file ends in .json, else one record a
/// line. Conversations go through `format`, asked for at the first of them, and are encoded without a BOS of the
/// tokenizer's own; texts as by read_lines. Throws format_error naming file and record.
template <text_encoder Tokenizer>
calibration_set read_records(std::filesystem::path const& file, Tokenizer const& tokenizer, index_t vocabulary_size,
                             std::function<chat_format()> const& format, calibration_options const& options = {}) {
  calibration_set set = detail::start_calibration(options);
  std::optional<chat_format> chosen;
  auto const add = [&](json const& record, std::string const& where) {
    if (record.is_array() || (record.is_object() && record.contains("input_ids"))) {
      set.add(ids_of_record(record, vocabulary_size, where), options.sequence_length);
    } else if (!record.is_object()) {
      throw format_error(where + ": a record must be an object or a list of ids, not " + record.type_name());
    } else if (auto const turns = parse_conversation(record, where)) {
      if (turns->empty()) return void(++set.dropped);
      if (!chosen) chosen = format();
      set.add(tokenizer.encode(format_chat(*chosen, *turns), false, &set.report), options.sequence_length);
    } else if (record.contains("text")) {
      std::string const text(utf8::strip(detail::chat_text(record.at("text"), where)));
      if (text.empty()) return void(++set.dropped);
      set.add(tokenizer.encode(text, true, &set.report), options.sequence_length);
    } else {
      throw format_error(where +
                         ": none of messages, conversations, dialog, instruction, text and input_ids is in the record");
    }
  };
  if (file.extension() == ".json") {
    json const document = parse_json(read_text(file), file.string());
    if (document.is_array()) {
      for (std::size_t i = 0; i < document.size() && !set.full(); ++i)
        add(document[i], file.string() + ": record " + std::to_string(i + 1));
    } else {
      add(document, file.string());
    }
  } else {
    line_reader lines(file);
    for (std::string line; !set.full() && lines.next(line);) {
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      std::string const where = file.string() + ": line " + std::to_string(lines.number());
      add(parse_json(line, where), where);
    }
  }
  if (set.samples.empty()) throw format_error(file.string() + ": no record with text");
  return set;
}

}  // namespace v0
}  // namespace gptq
