// One launch of an exported language model: load it, run it, print the measurements as one JSON object.
//
//     sharp-runner MODEL.pte [--threads N] [--prompt 1,2,3] ...
//
//     load + init ─► the prompt ─► warm-ups ─► forwards ─► prefills ─► decodes ─► decodes at depths ─► sustained
//          │             │                                                                               ─► greedy tokens
//          └─ memory     └─ time to first token, memory, logits
//
// A forward is one token at the position after the prompt, as in a chat. A process is one launch; for several launches,
// with or without the packed weights of an earlier one, start the program several times.
//
// Plain C++17 on the libraries of the ExecuTorch wheel; the same source is compiled for x86-64 and for aarch64. JSON
// goes to standard output, everything else to standard error. A failure prints one line there and no JSON, and the exit
// status is 1.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "arguments.h"
#include "json.h"
#include "memory.h"
#include "model.h"

namespace {

using sharp::Arguments;
using sharp::list;
using sharp::Model;
using sharp::quoted;

// --- time, memory, markers -----------------------------------------------------------------------------------------

using Nanoseconds = int64_t;

Nanoseconds now() {
  using namespace std::chrono;
  return duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

std::string memory_json(const sharp::Memory& memory) {
  return "{\"anonymous\": " + std::to_string(memory.anonymous) + ", \"file\": " + std::to_string(memory.file) +
         ", \"peak\": " + std::to_string(memory.peak) + ", \"footprint\": " + std::to_string(memory.footprint) + "}";
}

// Two no-operations that no other code executes; an emulator's plugin counts the instructions between them.
void mark_begin() {
#if defined(__aarch64__)
  asm volatile("hint #0x68" ::: "memory");
#endif
}

void mark_end() {
#if defined(__aarch64__)
  asm volatile("hint #0x69" ::: "memory");
#endif
}

template <typename Work>
Nanoseconds timed(bool marked, const Work& work) {
  const Nanoseconds start = now();
  if (marked) mark_begin();
  work();
  if (marked) mark_end();
  return now() - start;
}

// --- the launch ----------------------------------------------------------------------------------------------------

// The prompt, repeated to `count` tokens.
std::vector<int64_t> repeated(const std::vector<int64_t>& prompt, int64_t count) {
  std::vector<int64_t> tokens(static_cast<size_t>(count));
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = prompt[i % prompt.size()];
  return tokens;
}

// The likeliest tokens after the prompt with their logits, to compare the answers of different devices.
std::string likeliest_json(const Model& model) {
  std::string out = "[";
  for (const int64_t token : model.likeliest(5)) {
    char pair[64];
    std::snprintf(pair, sizeof pair, "[%lld, %.9g]", static_cast<long long>(token), model.logits()[token]);
    out += (out.size() > 1 ? ", " : "") + std::string(pair);
  }
  return out + "]";
}

// The time of each greedy token after the current prediction: a step and the choice of the token.
std::vector<Nanoseconds> timed_decode(Model& model, int64_t position, int64_t count) {
  std::vector<Nanoseconds> times;
  int64_t token = model.best();
  while (static_cast<int64_t>(times.size()) < count) {
    times.push_back(timed(false, [&] {
      model.step({token}, position++);
      token = model.best();
    }));
  }
  return times;
}

Nanoseconds sum(const std::vector<Nanoseconds>& times) {
  return std::accumulate(times.begin(), times.end(), Nanoseconds{0});
}

// A part of a sustained run: `tokens` decoded in `time`, and its end since the start of the launch.
struct Window {
  Nanoseconds end = 0, time = 0;
  int64_t tokens = 0;
};

// Decode for some seconds, in cycles that start again after the prompt, so that every cycle does the same work. A window
// joins cycles up to a second, so that a fast model does not report thousands of them.
std::vector<Window> sustained(Model& model, const Arguments& arguments, Nanoseconds launched) {
  constexpr Nanoseconds kSecond = 1'000'000'000;
  const auto position = static_cast<int64_t>(arguments.prompt.size());
  const Nanoseconds end = now() + arguments.sustain * kSecond;
  std::vector<Window> windows;
  Window window;
  while (now() < end) {
    model.step(arguments.prompt, 0);
    window.time += sum(timed_decode(model, position, arguments.decode));
    window.tokens += arguments.decode;
    if (window.time < kSecond && now() < end) continue;
    window.end = now() - launched;
    windows.push_back(window);
    window = {};
  }
  return windows;
}

std::string windows_json(const std::vector<Window>& windows) {
  std::string out = "[";
  for (const auto& window : windows) {
    out += (out.size() > 1 ? ", " : "") + list(std::vector<int64_t>{window.end, window.tokens, window.time});
  }
  return out + "]";
}

std::string run(const Arguments& arguments) {
  const Nanoseconds launched = now();
  const auto guard = sharp::set_threads(arguments.threads);
  const auto& prompt = arguments.prompt;
  const auto position = static_cast<int64_t>(prompt.size());
  Model model({arguments.model, arguments.weight_cache, arguments.packed_cache, arguments.etdump});

  const auto before_load = sharp::memory_now();
  const Nanoseconds load = timed(arguments.markers == "load", [&] { model.load(); });
  const auto after_load = sharp::memory_now();
  model.read_metadata();
  model.check_fits("--prompt", 0, position);
  model.check_fits("--forwards", position, arguments.warmups + arguments.forwards ? 1 : 0);
  model.check_fits("--prefill", 0, arguments.prefill);
  model.check_fits("--decode", position, arguments.decode);
  for (const int64_t depth : arguments.depths) model.check_fits("--depths", depth, arguments.decode);
  model.check_fits("--tokens", position, std::max<int64_t>(0, arguments.tokens - 1));

  // Load and prompt, without what this program does between them.
  int64_t next = 0;
  const Nanoseconds first_token = load + timed(false, [&] {
    model.step(prompt, 0);
    next = model.best();
  });
  const auto after_forward = sharp::memory_now();
  int64_t footprint_peak = std::max(after_load.footprint, after_forward.footprint);
  const auto see_memory = [&] { footprint_peak = std::max(footprint_peak, sharp::memory_now().footprint); };
  if (!arguments.logits.empty()) {
    sharp::write_file(arguments.logits, model.logits(), model.vocabulary() * sizeof(float));
  }
  const std::string likeliest = likeliest_json(model);
  std::vector<Nanoseconds> forwards, prefills, decodes, tokens_of_decodes;
  for (int64_t i = 0; i < arguments.warmups; ++i) model.step({next}, position);
  model.restart_trace();
  for (int64_t i = 0; i < arguments.forwards; ++i) {
    forwards.push_back(timed(arguments.markers == "forward", [&] { model.step({next}, position); }));
  }
  model.write_trace();
  const auto passage = repeated(prompt, arguments.prefill);
  for (int64_t i = 0; i < arguments.prefill_runs; ++i) {
    prefills.push_back(timed(arguments.markers == "prefill", [&] { model.step(passage, 0); }));
  }
  see_memory();
  for (int64_t i = 0; i < arguments.decode_runs; ++i) {
    model.step(prompt, 0);
    const auto times = timed_decode(model, position, arguments.decode);
    decodes.push_back(sum(times));
    tokens_of_decodes.insert(tokens_of_decodes.end(), times.begin(), times.end());
  }
  std::string at_depths;
  for (const int64_t depth : arguments.depths) {
    std::vector<Nanoseconds> times;
    for (int64_t i = 0; i < arguments.decode_runs; ++i) {
      model.step(repeated(prompt, depth), 0);
      times.push_back(sum(timed_decode(model, depth, arguments.decode)));
    }
    at_depths += (at_depths.empty() ? "\"" : ", \"") + std::to_string(depth) + "\": " + list(times);
  }
  see_memory();
  const auto windows = arguments.sustain == 0 ? std::vector<Window>() : sustained(model, arguments, launched);
  std::vector<int64_t> tokens;
  if (arguments.tokens > 0) {
    model.step(prompt, 0);
    tokens = sharp::greedy(model, position, arguments.tokens, true);
  }

  std::ostringstream json;
  json << "{\n \"runtime\": " << quoted(SHARP_RUNTIME) << ",\n \"threads\": " << arguments.threads
       << ",\n \"weight_cache\": " << (arguments.weight_cache ? "true" : "false") << ",\n \"packed_cache\": "
       << (arguments.packed_cache.empty() ? "null" : quoted(arguments.packed_cache)) << ",\n \"metadata\": {";
  const char* separator = "";
  for (const auto& [name, value] : model.metadata()) {
    json << separator << quoted(name) << ": " << value;
    separator = ", ";
  }
  json << "},\n \"load_ns\": " << load << ",\n \"first_token_ns\": " << first_token << ",\n \"forward_ns\": " << list(forwards)
       << ",\n \"prefill_tokens\": " << arguments.prefill << ",\n \"prefill_ns\": " << list(prefills)
       << ",\n \"decode_tokens\": " << arguments.decode << ",\n \"decode_ns\": " << list(decodes)
       << ",\n \"decode_token_ns\": " << list(tokens_of_decodes) << ",\n \"decode_at_depth_ns\": {" << at_depths
       << "},\n \"sustained\": " << windows_json(windows) << ",\n \"memory_before_load\": " << memory_json(before_load)
       << ",\n \"memory_after_load\": " << memory_json(after_load)
       << ",\n \"memory_after_forward\": " << memory_json(after_forward)
       << ",\n \"peak_bytes\": " << sharp::memory_now().peak << ",\n \"footprint_peak_bytes\": " << footprint_peak
       << ",\n \"likeliest\": " << likeliest << ",\n \"tokens\": " << list(tokens) << "\n}\n";
  return json.str();
}

}  // namespace

int main(int argc, char** argv) {
  sharp::start_runtime();
  try {
    const auto arguments = sharp::parse(argc, argv);
    sharp::check_complete(arguments.model);
    std::cout << run(arguments) << std::flush;
  } catch (const sharp::Failure& failure) {
    std::cerr << "error: " << failure.what() << std::endl;
    return 1;
  }
  return 0;
}
