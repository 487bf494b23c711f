// The memory of this process, as Linux counts it.

#pragma once

#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace sharp {

// Resident bytes: the process's own, pages of files, and the most that both together have been.
struct Memory {
  int64_t anonymous = 0, file = 0, peak = 0;
};

// From /proc/self/status, which counts in kB.
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
