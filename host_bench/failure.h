// An error that a user can act on: one sentence that names the file and the way out.

#pragma once

#include <stdexcept>
#include <string>

namespace sharp {

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] inline void fail(const std::string& problem) { throw Failure(problem); }

}  // namespace sharp
