// Search in a bank by a prefix of its keys, so that most of it is not read.
//
// The prefix of a bank is the first n features of its keys, transposed: for each block of keys and
// each feature, one bit per key; [blocks][n][width bytes], the bits of keys beyond the bank 0. A
// query reads only the features that it has itself, and one instruction counts for 512 keys.
//
// If the prefix holds all features, that count is the overlap. If it does not, it is a filter: a
// key whose overlap reaches the bank's lowest threshold is wrongly filtered out with a probability
// below MISS. The memory's permutation is random (as a code's projections are), so of the features
// that a key shares with the query, the number that falls into the prefix is hypergeometric, and
// `least_in_prefix` is its quantile.
//
// A block is read in stages, until so few of its keys may still win that they are compared whole.
// Keys that have many popular features come near to any query, and others to none; so the blocks
// of a filter hold keys in the order of that number, and most blocks are done after few stages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace memoir_edge {

constexpr double MISS = 1e-9;

// How the R keys of a bank are divided: into as few blocks as possible, all of one width, none
// empty.
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
  const uint32_t* rows;  // [R]: the keys in the prefix's order
  const uint8_t* prefix;

  bool whole() const { return n == 8 * W; }
  size_t prefix_bytes() const { return Blocks(R).number * n * Blocks(R).width; }
};

// The order of a bank's keys in its prefix: by their number of popular features; as they are, where
// the prefix holds all features.
std::vector<uint32_t> in_order(const Bank& bank);

// Writes bank.prefix_bytes() bytes.
void make_prefix(const Bank& bank, uint8_t* prefix);

// The largest t such that P(X < t) < miss. X is hypergeometric: how many of the `shared` ones that
// a key has in common with the query are among the `seen` of the query's k ones in the prefix.
uint32_t least_in_prefix(uint32_t k, uint32_t shared, uint32_t seen, double miss);

// The lowest of n thresholds.
float lowest_of(const float* thresholds, size_t n);

// The smallest number of shared ones that reaches a threshold; k + 1 if none does.
uint32_t least_shared(float threshold, uint32_t k);

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

// How one query searches a prefix.
struct Search {
  const uint8_t* query;         // [W]
  uint32_t k, shared;           // a key that shares fewer of the query's k ones does not answer
  double miss;                  // of one filter
  std::vector<uint32_t> ones;   // the query's, in the prefix
  std::vector<uint32_t> least;  // of the first STAGE ones, of twice as many .. that a key must have
};

constexpr size_t STAGE = 64;

// A search for keys that share at least `shared` of the query's k ones.
Search plan(const uint8_t* query, uint32_t k, uint32_t shared, const Bank& bank);

// The best key of one block, with its true overlap. Where no key of the block shares enough, or none
// that could win, it is some near key.
Best search_block(const Search& search, const Bank& bank, size_t block);

}  // namespace memoir_edge
