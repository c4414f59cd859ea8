#pragma once

// What an error says to users.

#include <c10/util/Exception.h>

#include <exception>
#include <new>
#include <string>

namespace smooseg::app {

/// An error's message without LibTorch's backtrace; of one that tells that memory ran out, what to do.
inline std::string text_of(const std::exception& error) {
  const auto* const from_torch = dynamic_cast<const c10::Error*>(&error);
  const std::string text = from_torch != nullptr ? from_torch->what_without_backtrace() : error.what();
  const bool no_memory =
      dynamic_cast<const std::bad_alloc*>(&error) != nullptr || text.find("can't allocate memory") != std::string::npos;
  if (!no_memory) return text;
  return "the memory does not suffice: lower what decides how much is needed, such as --batch, --resolution, "
         "--embed-dim, --textons, --cache-memory or --crf-tile";
}

}  // namespace smooseg::app
