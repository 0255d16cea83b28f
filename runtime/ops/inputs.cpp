// See inputs.h.
#include "inputs.h"

namespace memoir_edge {

RouteInputs read_route(const Call& call) {
  RouteInputs in{call.input(0, "a", 3, {FLOAT, FLOAT16, BFLOAT16}),
                 call.input(1, "span", 2, {INT64}),
                 call.input(2, "route", 1, {INT64}),
                 call.input(3, "bank", 2, {UINT8}),
                 call.input(4, "owner", 1, {INT32}),
                 call.input(5, "thresholds", 1, {FLOAT}),
                 call.input(6, "center", 1, {FLOAT}),
                 call.input(7, "scale", 1, {FLOAT}),
                 call.input(8, "permutation", 1, {INT32}),
            0};
  const Tensor k = call.input(9, "k", 1, {INT64});
  expect_shape(in.span, "span", {in.B(), in.T()});
  expect_shape(in.route, "route", {in.B()});
  expect_shape(in.bank, "bank", {in.R(), (in.D() + 7) / 8});
  expect_shape(in.owner, "owner", {in.R()});
  if (in.thresholds.size[0] != 1) expect_shape(in.thresholds, "thresholds", {in.R()});
  expect_shape(in.center, "center", {in.D()});
  expect_shape(in.scale, "scale", {in.D()});
  expect_shape(in.permutation, "permutation", {in.D()});
  expect_shape(k, "k", {1});
  const int64_t ones = k.as<int64_t>()[0];
  if (ones < 1 || static_cast<uint64_t>(ones) > in.D())
    throw Refusal("k is " + std::to_string(ones) + ", expected 1 to " + std::to_string(in.D()));
  if (in.R() == 0) throw Refusal("the bank has no keys, expected at least 1");
  in.k = static_cast<size_t>(ones);
  return in;
}

RecallInputs read_recall(const Call& call) {
  RecallInputs in{call.input(0, "a", 3, {FLOAT, FLOAT16, BFLOAT16}),
                 call.input(1, "route_out", 1, {INT64}),
                 call.input(2, "bank", 2, {UINT8}),
                 call.input(3, "columns", 1, {INT32}),
                 call.input(4, "values", 2, {FLOAT, FLOAT16, BFLOAT16}),
                 {}};
  expect_shape(in.route, "route_out", {in.B()});
  expect_shape(in.bank, "bank", {in.bank.size[0], (in.D() + 7) / 8});
  expect_shape(in.values, "values", {in.C(), in.d()});
  if (call.inputs() > 5) {  // a graph of an earlier version has no tiles
    in.tile = call.input(5, "tile", 1, {INT32});
    expect_shape(in.tile, "tile", {in.bank.size[0]});
  }
  return in;
}

}  // namespace memoir_edge
