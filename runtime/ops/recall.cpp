// Recall: what an edit adds to the site's output.
//
// docs/ports.md says what it must give.
#include <algorithm>
#include <cstring>
#include <vector>

#include "inputs.h"
#include "kernels.h"

namespace memoir_edge {
namespace {

constexpr size_t CACHED = 512 * 1024;  // bytes of the values in a panel of columns: fits L2

// A routed row: which of the stored columns its mask has, and its own activations there.
struct Active {
  size_t row;
  std::vector<int32_t> rows;  // of `values`
  std::vector<float> x;       // [T, rows]
};

// `first` is the first column of the mask's tile, which has D of them.
Active gather(const Tensor& a, size_t row, const uint8_t* key, size_t first, const Tensor& columns) {
  const size_t T = a.size[1], D = a.size[2];
  Active found{row, {}, {}};
  std::vector<size_t> features;
  for (size_t c = 0; c < columns.size[0]; c++) {
    const size_t feature = static_cast<size_t>(columns.as<int32_t>()[c]) - first;
    if (feature >= D || !(key[feature / 8] >> (feature % 8) & 1)) continue;
    found.rows.push_back(static_cast<int32_t>(c));
    features.push_back(feature);
  }
  const size_t n = features.size();
  found.x.resize(T * n);
  std::vector<float> token(D);
  for (size_t t = 0; t < T; t++) {
    const char* from = static_cast<const char*>(a.data) + (row * T + t) * D * size_of(a.type);
    std::fill(token.begin(), token.end(), 0.0f);
    kernels()->add_token(from, a.type, D, token.data());
    for (size_t i = 0; i < n; i++) found.x[t * n + i] = token[features[i]];
  }
  return found;
}

}  // namespace

void compute_recall(const Call& call) {
  const RecallInputs in = read_recall(call);
  const Tensor &a = in.a, &route = in.route, &bank = in.bank, &columns = in.columns,
               &values = in.values;
  const size_t B = in.B(), T = in.T(), D = in.D(), R = bank.size[0], d = in.d();
  float* delta = call.output<float>(0, {B, T, d});
  std::memset(delta, 0, B * T * d * sizeof(float));
  std::vector<size_t> routed;
  for (size_t row = 0; row < B; row++) {
    const int64_t given = route.as<int64_t>()[row];
    if (given > 0 && static_cast<uint64_t>(given) > R)
      throw Refusal("route_out is " + std::to_string(given) + ", out of data bounds: the bank has " +
                    std::to_string(R) + " keys");
    if (given > 0) routed.push_back(row);
  }
  if (routed.empty()) return;
  const bool tiled = in.tile.data != nullptr;
  for (size_t c = 0; c < columns.size[0]; c++) {
    const int32_t column = columns.as<int32_t>()[c];
    if (column < 0 || (!tiled && static_cast<size_t>(column) >= D))
      throw Refusal("columns holds " + std::to_string(column) + ", expected 0 " +
                    (tiled ? "or more" : "to " + std::to_string(D - 1)));
  }
  std::vector<Active> active(routed.size());
  call.each(routed.size(), [&](size_t i) {
    const size_t key = static_cast<size_t>(route.as<int64_t>()[routed[i]]) - 1;
    const int32_t tile = tiled ? in.tile.as<int32_t>()[key] : 0;
    if (tile < 0) throw Refusal("tile holds " + std::to_string(tile) + ", expected 0 or more");
    const uint8_t* mask = bank.as<uint8_t>() + key * bank.size[1];
    active[i] = gather(a, routed[i], mask, static_cast<size_t>(tile) * D, columns);
  });
  // Cache blocking: all tokens read a panel of columns while it is in L2.
  const size_t column = std::max<size_t>(columns.size[0], 1) * size_of(values.type);
  const size_t width = std::min(std::max<size_t>(CACHED / column / 64 * 64, 64), d);
  const size_t panels = width ? (d + width - 1) / width : 0;
  call.each(routed.size() * panels, [&](size_t i) {
    const Active& own = active[i / panels];
    const size_t begin = i % panels * width;
    kernels()->multiply(own.x.data(), T, own.rows.size(), own.rows.data(), values.data, values.type,
                        d, begin, std::min(begin + width, d), delta + own.row * T * d);
  });
}

}  // namespace memoir_edge
