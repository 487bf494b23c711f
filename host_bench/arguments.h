// The runner's command line.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "failure.h"

namespace sharp {

inline constexpr char kUsage[] =
    "usage: sharp-runner MODEL.pte [--threads N] [--no-weight-cache] [--packed-cache FILE] [--prompt 1,2,3]\n"
    "         [--warmups 1] [--forwards 5] [--prefill TOKENS --prefill-runs K] [--decode TOKENS --decode-runs K]\n"
    "         [--depths TOKENS,... --decode TOKENS --decode-runs K] [--sustain SECONDS --decode TOKENS]\n"
    "         [--tokens N] [--logits FILE] [--etdump FILE] [--markers load|forward|prefill]";

struct Arguments {
  std::string model;
  int64_t threads = 1;
  bool weight_cache = true;
  std::string packed_cache;          // the file that stores packed weights between launches
  std::vector<int64_t> prompt = {1};
  int64_t warmups = 1, forwards = 5;
  int64_t prefill = 0, prefill_runs = 0;
  int64_t decode = 0, decode_runs = 0;
  std::vector<int64_t> depths;       // tokens in the KV cache before further runs of decode
  int64_t sustain = 0;               // seconds of decoding, in cycles of `decode` tokens
  int64_t tokens = 0;                // the number of tokens to generate greedily
  std::string logits;                // the file for the float32 logits of the prompt's last position
  std::string etdump;                // the file for the trace of the forwards
  std::string markers;               // the part between the two marker instructions
};

inline int64_t number(const std::string& flag, const std::string& text, int64_t least) {
  char* end = nullptr;
  const long long value = std::strtoll(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || value < least || value > INT32_MAX) {
    fail(flag + " " + text + ": write a whole number from " + std::to_string(least) + " on");
  }
  return value;
}

inline std::vector<int64_t> numbers(const std::string& flag, const std::string& text, int64_t least) {
  std::vector<int64_t> found;
  size_t start = 0;
  while (true) {
    const size_t comma = text.find(',', start);
    found.push_back(number(flag, text.substr(start, comma == std::string::npos ? comma : comma - start), least));
    if (comma == std::string::npos) return found;
    start = comma + 1;
  }
}

inline Arguments parse(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 == argc) fail(flag + " needs a value\n" + kUsage);
      return argv[++i];
    };
    if (flag == "--no-weight-cache") a.weight_cache = false;
    else if (flag == "--threads") a.threads = number(flag, value(), 1);
    else if (flag == "--packed-cache") a.packed_cache = value();
    else if (flag == "--prompt") a.prompt = numbers(flag, value(), 0);
    else if (flag == "--warmups") a.warmups = number(flag, value(), 0);
    else if (flag == "--forwards") a.forwards = number(flag, value(), 0);
    else if (flag == "--prefill") a.prefill = number(flag, value(), 1);
    else if (flag == "--prefill-runs") a.prefill_runs = number(flag, value(), 0);
    else if (flag == "--decode") a.decode = number(flag, value(), 1);
    else if (flag == "--decode-runs") a.decode_runs = number(flag, value(), 0);
    else if (flag == "--depths") a.depths = numbers(flag, value(), 1);
    else if (flag == "--sustain") a.sustain = number(flag, value(), 1);
    else if (flag == "--tokens") a.tokens = number(flag, value(), 0);
    else if (flag == "--logits") a.logits = value();
    else if (flag == "--etdump") a.etdump = value();
    else if (flag == "--markers") a.markers = value();
    else if (flag.rfind("--", 0) == 0) fail("unknown option " + flag + "\n" + kUsage);
    else if (a.model.empty()) a.model = flag;
    else fail("one model at a time, not " + a.model + " and " + flag);
  }
  if (a.model.empty()) fail(kUsage);
  if (!a.weight_cache && !a.packed_cache.empty()) {
    fail("--packed-cache is the weight cache on disk; drop --no-weight-cache");
  }
  if ((a.prefill == 0) != (a.prefill_runs == 0)) fail("--prefill and --prefill-runs go together");
  if (a.decode_runs != 0 && a.decode == 0) fail("--decode-runs needs --decode");
  if (a.decode != 0 && a.decode_runs == 0 && a.sustain == 0) fail("--decode needs --decode-runs or --sustain");
  if (!a.depths.empty() && a.decode_runs == 0) fail("--depths needs --decode and --decode-runs");
  if (a.sustain != 0 && a.decode == 0) fail("--sustain needs --decode");
  if (!a.etdump.empty() && a.forwards == 0) fail("--etdump traces the forwards; ask for some");
  if (!a.markers.empty()) {
#if !defined(__aarch64__)
    fail("--markers: only an aarch64 program has the marker instructions");
#endif
    if (a.markers != "load" && a.markers != "forward" && a.markers != "prefill") {
      fail("--markers " + a.markers + ": choose load, forward or prefill");
    }
  }
  return a;
}

}  // namespace sharp
