// See tensors.h.
#include "tensors.h"

#include <algorithm>
#include <memory>

namespace memoir_edge {
namespace {

std::string shape(const size_t* sizes, size_t rank) {
  std::string text = "[";
  for (size_t i = 0; i < rank; i++) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + "]";
}

}  // namespace

size_t size_of(int type) {
  switch (type) {
    case UINT8:
    case INT8:
      return 1;
    case FLOAT16:
    case BFLOAT16:
      return 2;
    case INT64:
      return 8;
    default:
      return 4;
  }
}

size_t Call::inputs() const {
  size_t given = 0;
  check(ort_.KernelContext_GetInputCount(context_, &given));
  return given;
}

Tensor Call::input(size_t i, const char* name, size_t rank,
                   std::initializer_list<int> types) const {
  const OrtValue* value = nullptr;
  if (i < inputs()) check(ort_.KernelContext_GetInput(context_, i, &value));
  if (value == nullptr) throw Refusal(std::string(name) + " is missing");
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(ort_.GetTensorTypeAndShape(value, &info));
  auto release = [this](OrtTensorTypeAndShapeInfo* held) {
    ort_.ReleaseTensorTypeAndShapeInfo(held);
  };
  std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(release)> holder(info, release);
  Tensor found;
  check(ort_.GetTensorElementType(info, &found.type));
  if (std::find(types.begin(), types.end(), found.type) == types.end())
    throw Refusal(std::string(name) + " has element type " + std::to_string(found.type) +
                  " of ONNX, which this op does not take");
  check(ort_.GetDimensionsCount(info, &found.rank));
  if (found.rank != rank)
    throw Refusal(std::string(name) + " has " + std::to_string(found.rank) + " axes, expected " +
                  std::to_string(rank));
  int64_t sizes[3] = {};
  check(ort_.GetDimensions(info, sizes, rank));
  for (size_t axis = 0; axis < rank; axis++) {
    if (sizes[axis] < 0) throw Refusal(std::string(name) + " has a negative size");
    found.size[axis] = static_cast<size_t>(sizes[axis]);
  }
  void* data = nullptr;
  check(ort_.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  found.data = data;
  return found;
}

void* Call::output(size_t i, std::initializer_list<size_t> sizes) const {
  int64_t dims[3];
  std::copy(sizes.begin(), sizes.end(), dims);
  OrtValue* value = nullptr;
  check(ort_.KernelContext_GetOutput(context_, i, dims, sizes.size(), &value));
  void* data = nullptr;
  check(ort_.GetTensorMutableData(value, &data));
  return data;
}

void expect_shape(const Tensor& tensor, const char* name, std::initializer_list<size_t> sizes) {
  if (!std::equal(sizes.begin(), sizes.end(), tensor.size, tensor.size + tensor.rank))
    throw Refusal(std::string(name) + " is " + shape(tensor.size, tensor.rank) + ", expected " +
                  shape(sizes.begin(), sizes.size()));
}

}  // namespace memoir_edge
