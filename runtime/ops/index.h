// Banks that have a prefix.
//
// Whoever holds a bank derives its prefix (see prefix.h) once, when a memory is loaded; Route finds
// it by the bank's address. So the bank must neither move nor change until its index is dropped, and
// nor must its thresholds: looking for the lowest of a million takes a sixth of a search.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "prefix.h"

namespace memoir_edge {

struct Freed {
  void operator()(uint8_t* bytes) const { std::free(bytes); }
};

struct Index {
  Bank bank;
  std::vector<uint32_t> rows;  // what the bank points to
  std::unique_ptr<uint8_t, Freed> prefix;
  const float* thresholds;
  float lowest;  // of these
};

// The index of a bank, null where it has none.
std::shared_ptr<const Index> index_of(const uint8_t* bank, size_t R, size_t W);

}  // namespace memoir_edge
