// What the two ops take, with every shape and type checked; one reader for all devices.
//
// B rows, T tokens, D and d the site's widths, R keys, W bytes of a key, C columns.
#pragma once

#include "tensors.h"

namespace memoir_edge {

struct RouteInputs {
  Tensor a, span, route, bank, owner, thresholds, center, scale, permutation;
  size_t k;

  size_t B() const { return a.size[0]; }
  size_t T() const { return a.size[1]; }
  size_t D() const { return a.size[2]; }
  size_t R() const { return bank.size[0]; }
  size_t W() const { return bank.size[1]; }
};

struct RecallInputs {
  Tensor a, route, bank, columns, values;
  Tensor tile;  // without data: all masks are of tile 0

  size_t B() const { return a.size[0]; }
  size_t T() const { return a.size[1]; }
  size_t D() const { return a.size[2]; }
  size_t C() const { return columns.size[0]; }
  size_t d() const { return values.size[1]; }
};

// Values are not looked at, but for k, which is on the host: 1 <= k <= D, and R >= 1.
RouteInputs read_route(const Call& call);
RecallInputs read_recall(const Call& call);

}  // namespace memoir_edge
