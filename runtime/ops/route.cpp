// Route: which edit answers a row of a batch.
//
// docs/ports.md says what every step must give.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <iterator>
#include <vector>

#include "index.h"
#include "inputs.h"
#include "kernels.h"

namespace memoir_edge {
namespace {

constexpr size_t CHUNK_BYTES = 256 * 1024;  // of the bank: stays in L2 while all queries read it

void check_permutation(const RouteInputs& in) {
  const int32_t* permutation = in.permutation.as<int32_t>();
  for (size_t i = 0; i < in.D(); i++)
    if (permutation[i] < 0 || static_cast<size_t>(permutation[i]) >= in.D())
      throw Refusal("permutation holds " + std::to_string(permutation[i]) + ", expected 0 to " +
                    std::to_string(in.D() - 1));
}

struct Limit {
  uint32_t value;  // the k-th largest
  size_t equal;    // how many of its equals are among the k
};

// In linear time: radix select on the upper bits, then quickselect among the numbers that share
// them.
Limit kth_largest(const std::vector<uint32_t>& numbers, size_t k) {
  constexpr int LOWER = 19;  // of 31: the sign is 0
  uint32_t counts[1 << (31 - LOWER)] = {};
  for (const uint32_t number : numbers) counts[number >> LOWER]++;
  uint32_t upper = std::size(counts) - 1;
  for (; counts[upper] < k; upper--) k -= counts[upper];
  std::vector<uint32_t> tied;
  tied.reserve(counts[upper]);
  for (const uint32_t number : numbers)
    if (number >> LOWER == upper) tied.push_back(number);
  std::nth_element(tied.begin(), tied.begin() + (k - 1), tied.end(), std::greater<>());
  const uint32_t value = tied[k - 1];
  for (const uint32_t number : tied) k -= number > value;
  return {value, k};
}

// Feature and mask of one row; `query` is [W] zeros.
void make_mask(const RouteInputs& in, size_t row, uint8_t* query) {
  std::vector<float> f(in.D());
  const size_t bytes = in.D() * size_of(in.a.type);  // of a token
  const char* tokens = static_cast<const char*>(in.a.data) + row * in.T() * bytes;
  const int64_t* span = in.span.as<int64_t>() + row * in.T();
  size_t counted = 0;
  for (size_t t = 0; t < in.T(); t++) {
    if (span[t] <= 0) continue;
    kernels()->add_token(tokens + t * bytes, in.a.type, in.D(), f.data());
    counted++;
  }
  const float number = static_cast<float>(std::max<size_t>(counted, 1));
  const float *center = in.center.as<float>(), *scale = in.scale.as<float>();
  std::vector<uint32_t> magnitude(in.D());  // bits of a float without its sign: ordered as it is
  for (size_t i = 0; i < in.D(); i++) {
    const float value = std::fabs((f[i] / number - center[i]) * scale[i]);
    std::memcpy(&magnitude[i], &value, sizeof value);
  }
  const Limit limit = kth_largest(magnitude, in.k);
  size_t equal = limit.equal;
  const int32_t* permutation = in.permutation.as<int32_t>();
  for (size_t i = 0; i < in.D(); i++) {  // branchless: a branch would be mispredicted often
    const bool tied = magnitude[i] == limit.value && equal > 0;  // the lower index first
    equal -= tied;
    const bool active = magnitude[i] > limit.value || tied;
    query[permutation[i] / 8] |= static_cast<uint8_t>(active << permutation[i] % 8);
  }
}

// The best key of each query, by reading the whole bank once.
std::vector<Best> scan(const Call& call, const RouteInputs& in,
                       const std::vector<uint8_t>& queries) {
  const size_t n = queries.size() / in.W();
  const uint8_t* bank = in.bank.as<uint8_t>();
  const size_t step = std::max<size_t>(CHUNK_BYTES / in.W(), 1), chunks = (in.R() + step - 1) / step;
  std::vector<Best> found(chunks * n);
  call.each(chunks, [&](size_t chunk) {
    const size_t first = chunk * step, keys = std::min(step, in.R() - first);
    for (size_t q = 0; q < n; q++) {
      uint32_t shared;
      size_t row;
      kernels()->best_key(bank + first * in.W(), keys, in.W(), &queries[q * in.W()], &shared, &row);
      found[chunk * n + q].take(shared, first + row);
    }
  });
  for (size_t i = n; i < found.size(); i++) found[i % n].take(found[i].shared, found[i].row);
  found.resize(n);
  return found;
}

// The same by the bank's prefix. For a query that no key answers it is some near key, not always
// the nearest, with its true overlap.
std::vector<Best> search(const Call& call, const RouteInputs& in, const Index& index,
                         const std::vector<uint8_t>& queries) {
  const Bank& bank = index.bank;
  const size_t n = queries.size() / in.W(), blocks = Blocks(in.R()).number;
  const uint32_t k = static_cast<uint32_t>(in.k);
  const float* thresholds = in.thresholds.as<float>();
  const float lowest = thresholds == index.thresholds
                           ? index.lowest
                           : lowest_of(thresholds, in.thresholds.size[0]);
  const uint32_t shared = least_shared(lowest, k);
  std::vector<Search> searches(n);
  call.each(n, [&](size_t q) { searches[q] = plan(&queries[q * in.W()], k, shared, bank); });
  std::vector<Best> best(blocks * n);
  call.each(best.size(),
            [&](size_t i) { best[i] = search_block(searches[i % n], bank, i / n); });
  for (size_t i = n; i < best.size(); i++) best[i % n].take(best[i].shared, best[i].row);
  best.resize(n);
  return best;
}

}  // namespace

void compute_route(const Call& call) {
  const RouteInputs in = read_route(call);
  int64_t* route_out = call.output<int64_t>(0, {in.B()});
  float* overlap = call.output<float>(1, {in.B()});
  int64_t* candidate = call.output<int64_t>(2, {in.B()});
  const int64_t* route = in.route.as<int64_t>();
  std::vector<size_t> undecided;
  for (size_t row = 0; row < in.B(); row++) {
    route_out[row] = route[row];
    overlap[row] = 0;
    candidate[row] = -1;
    if (route[row] == 0) undecided.push_back(row);
  }
  if (undecided.empty()) return;
  check_permutation(in);
  std::vector<uint8_t> queries(undecided.size() * in.W());
  call.each(undecided.size(), [&](size_t q) { make_mask(in, undecided[q], &queries[q * in.W()]); });
  const auto index = index_of(in.bank.as<uint8_t>(), in.R(), in.W());
  const std::vector<Best> best =
      index ? search(call, in, *index, queries) : scan(call, in, queries);
  for (size_t q = 0; q < undecided.size(); q++) {
    const size_t row = undecided[q], key = best[q].row;
    const float found = static_cast<float>(best[q].shared) / static_cast<float>(in.k);
    const float threshold = in.thresholds.as<float>()[in.thresholds.size[0] == 1 ? 0 : key];
    const int32_t owner = in.owner.as<int32_t>()[key];
    route_out[row] = found >= threshold && owner >= 0 ? int64_t{owner} + 1 : -1;
    overlap[row] = found;
    candidate[row] = static_cast<int64_t>(key);
  }
}

}  // namespace memoir_edge
