// Search in a bank by a prefix of its keys, so that most of it is not read.
//
// The prefix of a bank is the first n features of its keys, turned round: block by block of keys,
// feature by feature, one bit a key; [blocks][n][width bytes], keys beyond the bank 0. A query reads
// only the features that it has itself, and counts 512 keys with one instruction.
//
// Where the prefix holds all features, that count is the overlap. Where it does not, a key whose
// overlap reaches the bank's lowest threshold is dismissed with a probability below MISS. The
// memory's permutation is random, so of the features that a key shares with the query, the number
// that falls into the prefix is hypergeometric: `least_in_prefix` is where its tail begins.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace memoir_edge {

constexpr double MISS = 1e-9;

// How the R keys of a bank are divided: into as few blocks as may be, all of one width, none empty.
struct Blocks {
  size_t number, width, keys;  // keys of one block: 8 width

  explicit Blocks(size_t R)
      : number((R + 8 * BLOCK_BYTES - 1) / (8 * BLOCK_BYTES)),
        width((R + 512 * number - 1) / (512 * number) * 64),
        keys(8 * width) {}
};

// A bank [R][W] and its prefix of n features, a multiple of 8.
struct Bank {
  const uint8_t* keys;
  size_t R, W, n;
  const uint8_t* prefix;

  size_t prefix_bytes() const { return Blocks(R).number * n * Blocks(R).width; }
};

// Writes bank.prefix_bytes() bytes.
void make_prefix(const Bank& bank, uint8_t* prefix);

// The largest t for which a key that shares `shared` of the query's k ones has fewer than t of them
// among the first `seen` with a probability below MISS.
uint32_t least_in_prefix(uint32_t k, uint32_t shared, uint32_t seen);

// The smallest number of shared ones that reaches the lowest threshold, k + 1 if none does.
uint32_t least_shared(const float* thresholds, size_t n, uint32_t k);

struct Best {
  uint32_t shared = 0;  // ones of the best key so far
  size_t row = 0;
  bool found = false;

  // Among equals the later row, whatever the order of calls.
  void take(uint32_t other, size_t other_row) {
    if (found && (other < shared || (other == shared && other_row < row))) return;
    *this = {other, other_row, true};
  }
};

// What one query reads of a prefix, and what it wants there.
struct Search {
  const uint8_t* query;        // [W]
  size_t read;                 // the first features of the prefix, a multiple of 8
  std::vector<uint32_t> ones;  // those of them that the query has
  uint32_t least;              // of these, for a key that may win
};

// A search for keys that share at least `shared` of the query's k ones. It reads as much of the
// prefix as pays: the more, the fewer keys are left to be looked at, which a sample of them tells.
// A prefix of all features is read whole.
Search plan(const uint8_t* query, uint32_t k, uint32_t shared, const Bank& bank);

// The best of one block's keys that may win. `fallback` is the key with the best prefix, for a
// query that no key may win: then what is said of it is at least true.
void search_block(const Search& search, const Bank& bank, size_t block, Best* best, Best* fallback);

}  // namespace memoir_edge
