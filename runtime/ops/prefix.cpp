// See prefix.h.
#include "prefix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <memory>
#include <numeric>

#include "kernels.h"

namespace memoir_edge {
namespace {

// Transpose of an 8 x 8 bit matrix, byte r bit c to byte c bit r: swaps of 1 x 1, 2 x 2 and 4 x 4
// blocks across the diagonal.
uint64_t transpose(uint64_t x) {
  uint64_t t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAull;
  x ^= t ^ (t << 7);
  t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCull;
  x ^= t ^ (t << 14);
  t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ull;
  return x ^ t ^ (t << 28);
}

// Bit i of the bytes, in little bit order.
bool bit(const uint8_t* bytes, size_t i) { return bytes[i / 8] >> (i % 8) & 1; }

// The key with the highest count of a block's first `keys` keys, the last among equals.
Best highest(const Counts& counts, size_t width, size_t keys) {
  std::vector<uint64_t> among(width / 8);
  std::fill_n(among.begin(), keys / 64, ~0ull);
  if (keys % 64 != 0) among[keys / 64] = (1ull << keys % 64) - 1;
  const uint32_t count = kernels()->highest(&counts, width, among.data());
  size_t w = among.size() - 1;
  while (among[w] == 0) w--;
  return {count, 64 * w + 63 - __builtin_clzll(among[w]), true};
}

}  // namespace

std::vector<uint32_t> in_order(const Bank& bank) {
  std::vector<uint32_t> rows(bank.R);
  std::iota(rows.begin(), rows.end(), 0);
  if (bank.whole()) return rows;
  constexpr size_t SAMPLE = 2048;  // keys that say which features are popular
  const size_t D = 8 * bank.W, popular = D / 4, step = (bank.R + SAMPLE - 1) / SAMPLE;
  std::vector<uint32_t> have(D), features(D), has(bank.R);
  for (size_t row = 0; row < bank.R; row += step)
    for (size_t i = 0; i < D; i++) have[i] += bit(bank.keys + row * bank.W, i);
  std::iota(features.begin(), features.end(), 0);
  std::nth_element(features.begin(), features.begin() + popular, features.end(),
                   [&](uint32_t a, uint32_t b) { return have[a] > have[b]; });
  std::vector<uint8_t> mask(bank.W);
  for (size_t i = 0; i < popular; i++)
    mask[features[i] / 8] |= static_cast<uint8_t>(1 << features[i] % 8);
  for (size_t row = 0; row < bank.R; row++)
    has[row] = kernels()->shared_ones(bank.keys + row * bank.W, mask.data(), bank.W);
  std::sort(rows.begin(), rows.end(), [&](uint32_t a, uint32_t b) {
    return has[a] != has[b] ? has[a] < has[b] : a < b;
  });
  return rows;
}

void make_prefix(const Bank& bank, uint8_t* prefix) {
  constexpr size_t KEYS = 512, BYTES = 64;  // of a tile: its reads and writes stay in L1
  const Blocks blocks(bank.R);
  std::memset(prefix, 0, bank.prefix_bytes());
  for (size_t tile = 0; tile < bank.R; tile += KEYS) {
    uint8_t* to = prefix + tile / blocks.keys * bank.n * blocks.width + tile % blocks.keys / 8;
    const size_t keys = std::min(KEYS, bank.R - tile);
    const uint8_t* keys_of[KEYS];
    for (size_t key = 0; key < keys; key++)
      keys_of[key] = bank.keys + bank.rows[tile + key] * bank.W;
    for (size_t begin = 0; begin < bank.n / 8; begin += BYTES)
      for (size_t byte = begin; byte < std::min(begin + BYTES, bank.n / 8); byte++)
        for (size_t eight = 0; eight < keys; eight += 8) {
          uint64_t square = 0;
          for (size_t key = eight; key < std::min(eight + 8, keys); key++)
            square |= uint64_t{keys_of[key][byte]} << 8 * (key - eight);
          square = transpose(square);
          for (size_t j = 0; j < 8; j++, square >>= 8)
            to[(8 * byte + j) * blocks.width + eight / 8] = static_cast<uint8_t>(square);
        }
  }
}

uint32_t least_in_prefix(uint32_t k, uint32_t shared, uint32_t seen, double miss) {
  // P(X = c) = choose(shared, c) choose(k - shared, seen - c) / choose(k, seen): from the mode
  // down, by the ratio of neighbours, until it is negligible; then summed from the small end.
  auto log_choose = [](double n, double c) {
    return std::lgamma(n + 1) - std::lgamma(c + 1) - std::lgamma(n - c + 1);
  };
  const double others = k - shared;
  double c = std::floor((seen + 1.0) * (shared + 1.0) / (k + 2.0));
  std::vector<double> p{std::exp(log_choose(shared, c) + log_choose(others, seen - c) -
                                 log_choose(k, seen))};
  for (; c > 0 && others - seen + c > 0 && p.back() > miss * 1e-9; c--)
    p.push_back(p.back() * c * (others - seen + c) / ((shared - c + 1) * (seen - c + 1)));
  double below = 0;  // P(X <= c)
  for (;; c++, p.pop_back()) {
    below += p.back();
    if (below >= miss || p.size() == 1) return static_cast<uint32_t>(c);
  }
}

float lowest_of(const float* thresholds, size_t n) {
  float lowest[16];  // sixteen independent minima: the compiler vectorizes them
  std::fill(std::begin(lowest), std::end(lowest), INFINITY);
  size_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (size_t j = 0; j < 16; j++)
      lowest[j] = thresholds[i + j] < lowest[j] ? thresholds[i + j] : lowest[j];
  for (; i < n; i++) lowest[0] = std::min(thresholds[i], lowest[0]);
  return *std::min_element(std::begin(lowest), std::end(lowest));
}

uint32_t least_shared(float threshold, uint32_t k) {
  uint32_t low = 0, high = k + 1;  // bisection, on the quotient as Route rounds it
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    const bool reached = static_cast<float>(middle) / static_cast<float>(k) >= threshold;
    (reached ? high : low) = reached ? middle : middle + 1;
  }
  return low;
}

Search plan(const uint8_t* query, uint32_t k, uint32_t shared, const Bank& bank) {
  Search search{query, k, shared, MISS, {}, {}};
  for (uint32_t i = 0; i < bank.n; i++)
    if (bit(query, i)) search.ones.push_back(i);
  if (bank.whole()) return search;
  const size_t ones = search.ones.size(), stages = std::max<size_t>((ones + STAGE - 1) / STAGE, 1);
  search.miss = MISS / static_cast<double>(stages + 1);  // together, and with the last, below MISS
  for (size_t stage = 1; stage <= stages; stage++) {
    const uint32_t seen = static_cast<uint32_t>(std::min(stage * STAGE, ones));
    const bool possible = shared <= k;
    search.least.push_back(possible ? least_in_prefix(k, shared, seen, search.miss) : k + 1);
  }
  return search;
}

Best search_block(const Search& search, const Bank& bank, size_t block) {
  const Kernels& run = *kernels();
  const Blocks blocks(bank.R);
  const size_t first = block * blocks.keys, keys = std::min(blocks.keys, bank.R - first);
  const uint32_t* rows = bank.rows + first;
  const auto counts = std::make_unique<Counts>();
  auto count = [&](size_t n) {
    run.count_block(bank.prefix + block * bank.n * blocks.width, blocks.width,
                    search.ones.data() + counts->counted, n, counts.get());
  };
  if (bank.whole()) {
    count(search.ones.size());
    const Best most = highest(*counts, blocks.width, keys);
    return {most.shared, rows[most.row], true};
  }

  std::vector<uint64_t> left(blocks.width / 8);
  auto filter = [&](uint32_t least) {
    return run.at_least(counts.get(), blocks.width, least, left.data());
  };
  for (const uint32_t least : search.least) {
    count(std::min(STAGE, search.ones.size() - counts->counted));
    // A whole key takes W bytes, but one access of its own: about what W bits take for each key.
    if (filter(least) <= keys / bank.W) break;
  }

  Best best;
  auto compare = [&](size_t row) {
    best.take(run.shared_ones(bank.keys + row * bank.W, search.query, bank.W), row);
  };
  compare(rows[highest(*counts, blocks.width, keys).row]);
  // Where thresholds are low, this key leaves fewer to compare than they do.
  const uint32_t seen = static_cast<uint32_t>(counts->counted);
  if (best.shared > search.shared)
    filter(least_in_prefix(search.k, best.shared, seen, search.miss));
  std::vector<size_t> few;
  for (size_t w = 0; w < left.size(); w++)
    for (uint64_t bits = left[w]; bits != 0; bits &= bits - 1) {
      const size_t key = 64 * w + static_cast<size_t>(__builtin_ctzll(bits));
      if (key < keys) few.push_back(rows[key]);
    }
  constexpr size_t AHEAD = 12;  // keys that are prefetched
  for (size_t i = 0; i < few.size(); i++) {
    if (i + AHEAD < few.size())
      for (size_t at = 0; at < bank.W; at += 64)
        __builtin_prefetch(bank.keys + few[i + AHEAD] * bank.W + at);
    compare(few[i]);
  }
  return best;
}

}  // namespace memoir_edge
