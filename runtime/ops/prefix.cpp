// See prefix.h.
#include "prefix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>

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

uint64_t word(const uint8_t* bytes, size_t i) {
  uint64_t value;
  std::memcpy(&value, bytes + 8 * i, 8);
  return value;
}

// count >= least for keys 64 w .. 64 w + 63, as bits: a bit-sliced comparison, low planes first.
uint64_t reaching(const Counts& counts, size_t w, uint32_t least) {
  uint64_t reached = least >> counts.used == 0 ? ~0ull : 0;
  for (size_t p = 0; p < counts.used; p++) {
    const uint64_t plane = word(counts.planes[p], w);
    reached = least >> p & 1 ? plane & reached : plane | reached;
  }
  return reached;
}

// The key with the highest count of a block's first `keys` keys, the last among equals: a
// bit-sliced maximum, high planes first.
Best highest(const Counts& counts, size_t keys) {
  const size_t words = (keys + 63) / 64;
  uint64_t among[BLOCK_BYTES / 8];
  std::fill_n(among, words, ~0ull);
  if (keys % 64 != 0) among[words - 1] = (1ull << keys % 64) - 1;
  uint32_t count = 0;
  for (size_t p = counts.used; p-- > 0;) {
    uint64_t any = 0;
    for (size_t w = 0; w < words; w++) any |= among[w] & word(counts.planes[p], w);
    if (any == 0) continue;
    count |= 1u << p;
    for (size_t w = 0; w < words; w++) among[w] &= word(counts.planes[p], w);
  }
  size_t w = words - 1;
  while (among[w] == 0) w--;
  return {count, 64 * w + 63 - __builtin_clzll(among[w]), true};
}

}  // namespace

void make_prefix(const Bank& bank, uint8_t* prefix) {
  constexpr size_t KEYS = 512, BYTES = 64;  // of a tile: its reads and writes stay in L1
  const Blocks blocks(bank.R);
  std::memset(prefix, 0, bank.prefix_bytes());
  for (size_t tile = 0; tile < bank.R; tile += KEYS) {
    uint8_t* to = prefix + tile / blocks.keys * bank.n * blocks.width + tile % blocks.keys / 8;
    const size_t keys = std::min(KEYS, bank.R - tile);
    for (size_t begin = 0; begin < bank.n / 8; begin += BYTES)
      for (size_t byte = begin; byte < std::min(begin + BYTES, bank.n / 8); byte++)
        for (size_t eight = 0; eight < keys; eight += 8) {
          uint64_t square = 0;
          for (size_t key = eight; key < std::min(eight + 8, keys); key++)
            square |= uint64_t{bank.keys[(tile + key) * bank.W + byte]} << 8 * (key - eight);
          square = transpose(square);
          for (size_t j = 0; j < 8; j++, square >>= 8)
            to[(8 * byte + j) * blocks.width + eight / 8] = static_cast<uint8_t>(square);
        }
  }
}

uint32_t least_in_prefix(uint32_t k, uint32_t shared, uint32_t seen) {
  // P(X = c) = choose(shared, c) choose(k - shared, seen - c) / choose(k, seen): from the mode
  // down, by the ratio of neighbours, until it is negligible; then summed from the small end.
  auto log_choose = [](double n, double c) {
    return std::lgamma(n + 1) - std::lgamma(c + 1) - std::lgamma(n - c + 1);
  };
  const double others = k - shared;
  double c = std::floor((seen + 1.0) * (shared + 1.0) / (k + 2.0));
  std::vector<double> p{std::exp(log_choose(shared, c) + log_choose(others, seen - c) -
                                 log_choose(k, seen))};
  for (; c > 0 && others - seen + c > 0 && p.back() > MISS * 1e-9; c--)
    p.push_back(p.back() * c * (others - seen + c) / ((shared - c + 1) * (seen - c + 1)));
  double below = 0;  // P(X <= c)
  for (;; c++, p.pop_back()) {
    below += p.back();
    if (below >= MISS || p.size() == 1) return static_cast<uint32_t>(c);
  }
}

uint32_t least_shared(const float* thresholds, size_t n, uint32_t k) {
  float lowest_of[16];  // sixteen independent minima: the compiler vectorizes them
  std::fill(std::begin(lowest_of), std::end(lowest_of), INFINITY);
  size_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (size_t j = 0; j < 16; j++)
      lowest_of[j] = thresholds[i + j] < lowest_of[j] ? thresholds[i + j] : lowest_of[j];
  for (; i < n; i++) lowest_of[0] = std::min(thresholds[i], lowest_of[0]);
  const float lowest = *std::min_element(std::begin(lowest_of), std::end(lowest_of));
  uint32_t low = 0, high = k + 1;  // bisection, on the quotient as Route rounds it
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    const bool reached = static_cast<float>(middle) / static_cast<float>(k) >= lowest;
    (reached ? high : low) = reached ? middle : middle + 1;
  }
  return low;
}

Search plan(const uint8_t* query, uint32_t k, uint32_t shared, const Bank& bank) {
  constexpr size_t SAMPLE = 512, LENGTHS = 16;
  constexpr double COMPARE = 8000;  // cost of comparing one key whole, in features counted
  std::vector<uint32_t> ones;
  for (uint32_t i = 0; i < bank.n; i++)
    if (bit(query, i)) ones.push_back(i);
  if (shared > k) return {query, bank.n, ones, k + 1};  // no key can be a candidate
  auto of_length = [&](size_t read) {
    const auto end = std::lower_bound(ones.begin(), ones.end(), read);
    const uint32_t seen = static_cast<uint32_t>(end - ones.begin());
    return Search{query, read, {ones.begin(), end}, least_in_prefix(k, shared, seen)};
  };
  if (bank.n == 8 * bank.W || bank.R < 2 * SAMPLE) return of_length(bank.n);
  Search best;
  double least_cost = INFINITY;
  for (size_t length = 1; length <= LENGTHS; length++) {
    Search made = of_length(bank.n * length / LENGTHS / 8 * 8);
    size_t left = 0;
    for (size_t i = 0; i < SAMPLE; i++) {
      const uint8_t* key = bank.keys + i * (bank.R / SAMPLE) * bank.W;
      left += kernels()->shared_ones(key, query, made.read / 8) >= made.least;
    }
    const double cost = made.ones.size() + COMPARE * static_cast<double>(left) / SAMPLE;
    if (cost >= least_cost) continue;
    least_cost = cost;
    best = std::move(made);
  }
  return best;
}

void search_block(const Search& search, const Bank& bank, size_t block, Best* best,
                  Best* fallback) {
  const Kernels& run = *kernels();
  const Blocks blocks(bank.R);
  const size_t first = block * blocks.keys, keys = std::min(blocks.keys, bank.R - first);
  Counts counts;
  run.count_block(bank.prefix + block * bank.n * blocks.width, blocks.width, search.ones.data(),
                  search.ones.size(), &counts);
  const Best most = highest(counts, keys);
  if (search.read == 8 * bank.W) return best->take(most.shared, first + most.row);
  fallback->take(most.shared, first + most.row);
  if (most.shared < search.least) return;

  std::vector<size_t> left;
  for (size_t w = 0; w < (keys + 63) / 64; w++)
    for (uint64_t bits = reaching(counts, w, search.least); bits != 0; bits &= bits - 1) {
      const size_t key = 64 * w + static_cast<size_t>(__builtin_ctzll(bits));
      if (key < keys) left.push_back(first + key);
    }
  constexpr size_t AHEAD = 12;  // keys that are prefetched
  for (size_t i = 0; i < left.size(); i++) {
    if (i + AHEAD < left.size())
      for (size_t at = 0; at < bank.W; at += 64)
        __builtin_prefetch(bank.keys + left[i + AHEAD] * bank.W + at);
    best->take(run.shared_ones(bank.keys + left[i] * bank.W, search.query, bank.W), left[i]);
  }
}

}  // namespace memoir_edge
