// File access outside the runtime: the check of a .pte's length, and output files.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>

#include "failure.h"

namespace sharp {

inline void write_file(const std::string& path, const void* data, size_t bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
  file.close();
  if (!file) fail(path + ": cannot be written; choose another place");
}

// Refuse a truncated program: the runtime maps the file and would crash with SIGBUS at the first missing byte. The
// header of a program with segments has from byte 8, in little-endian: "eh00", the header's length (4 bytes), and
// 8 bytes each for the program's size, the offset of the first segment, and the size of all segments (older versions
// of ExecuTorch did not write the last).
inline void check_complete(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) fail(path + ": no such file, or it cannot be read");
  const auto bytes = static_cast<uint64_t>(file.tellg());
  char header[40] = {};
  file.seekg(0).read(header, sizeof header);
  if (!file || std::memcmp(header + 4, "ET12", 4) != 0) {
    fail(path + ": is not an ExecuTorch program; name the .pte of an export");
  }
  if (std::memcmp(header + 8, "eh00", 4) != 0) {
    fail(path + ": is no language model's program: it has no segments for weights; name the .pte of an export");
  }
  uint32_t length = 0;
  uint64_t program = 0, first_segment = 0, segments = 0;
  std::memcpy(&length, header + 12, sizeof length);
  std::memcpy(&program, header + 16, sizeof program);
  std::memcpy(&first_segment, header + 24, sizeof first_segment);
  if (length >= 32) std::memcpy(&segments, header + 32, sizeof segments);
  const uint64_t needed = std::max(program, first_segment + segments);
  if (bytes < needed) {
    fail(path + ": is cut short: has " + std::to_string(bytes) + " bytes, needs " + std::to_string(needed) +
         "; export it again");
  }
}

}  // namespace sharp
