// The memory of this process, from Linux.

#pragma once

#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace sharp {

// Resident bytes: anonymous memory, pages of files, and the peak of their sum. footprint: the proportional set size, in
// which a page counts for each process by its share; 0 if the system does not report it.
struct Memory {
  int64_t anonymous = 0, file = 0, peak = 0, footprint = 0;
};

// Calls `use` with each name and number of kB in a file of /proc.
template <typename Use>
void read_kilobytes(const char* path, const Use& use) {
  std::ifstream lines(path);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string name;
    int64_t kilobytes = 0;
    if (fields >> name >> kilobytes) use(name, kilobytes);
  }
}

inline Memory memory_now() {
  Memory memory;
  read_kilobytes("/proc/self/status", [&](const std::string& name, int64_t kilobytes) {
    if (name == "RssAnon:") memory.anonymous = kilobytes * 1024;
    if (name == "RssFile:" || name == "RssShmem:") memory.file += kilobytes * 1024;
    if (name == "VmHWM:") memory.peak = kilobytes * 1024;
  });
  read_kilobytes("/proc/self/smaps_rollup", [&](const std::string& name, int64_t kilobytes) {
    if (name == "Pss:") memory.footprint = kilobytes * 1024;
  });
  return memory;
}

}  // namespace sharp
