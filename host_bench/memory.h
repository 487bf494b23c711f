// The memory of this process, from Linux.

#pragma once

#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace sharp {

// Resident bytes: anonymous memory, pages of files, and the peak of their sum.
struct Memory {
  int64_t anonymous = 0, file = 0, peak = 0;
};

// From /proc/self/status, which reports kB.
inline Memory memory_now() {
  Memory memory;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    std::istringstream fields(line);
    std::string name;
    int64_t kilobytes = 0;
    if (!(fields >> name >> kilobytes)) continue;
    if (name == "RssAnon:") memory.anonymous = kilobytes * 1024;
    if (name == "RssFile:" || name == "RssShmem:") memory.file += kilobytes * 1024;
    if (name == "VmHWM:") memory.peak = kilobytes * 1024;
  }
  return memory;
}

}  // namespace sharp
