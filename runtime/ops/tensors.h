// A kernel's inputs and outputs, checked before anything is read.
//
// A check that fails throws Refusal; `guarded` turns it, and whatever else is thrown, into a
// status.
#pragma once

#include <atomic>
#include <exception>
#include <initializer_list>
#include <new>
#include <stdexcept>
#include <string>

#include "ort_abi.h"

namespace memoir_edge {

struct Refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// ONNX Runtime's own refusal, handed back as it is.
struct Failure {
  OrtStatus* status;
};

struct Tensor {
  const void* data = nullptr;
  int type = 0;
  size_t rank = 0;
  size_t size[3] = {1, 1, 1};

  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

size_t size_of(int type);  // bytes of an element

inline void check(OrtStatus* status) {
  if (status != nullptr) throw Failure{status};
}

class Call {
 public:
  Call(Ort ort, OrtKernelContext* context) : ort_(ort), context_(context) {}

  size_t inputs() const;  // that the node has

  // Input i, of one of the types and of the given rank.
  Tensor input(size_t i, const char* name, size_t rank, std::initializer_list<int> types) const;

  template <class T>
  T* output(size_t i, std::initializer_list<size_t> sizes) const {
    return static_cast<T*>(output(i, sizes));
  }

  // The CUDA stream that the session runs on.
  void* stream() const {
    void* out = nullptr;
    check(ort_.KernelContext_GetGPUComputeStream(context_, &out));
    return out;
  }

  // work(i) for i < n, on the session's threads. If it throws, the rest is left undone and the
  // first exception is thrown again here: none may leave through ONNX Runtime, whose caller is C.
  template <class Work>
  void each(size_t n, const Work& work) const {
    if (n == 0) return;
    if (n == 1) return work(size_t{0});
    struct Loop {
      const Work& work;
      std::atomic<bool> failed{false};
      std::exception_ptr first = nullptr;
    } loop{work};
    auto call = [](void* data, size_t i) noexcept {
      Loop& own = *static_cast<Loop*>(data);
      if (own.failed) return;
      try {
        own.work(i);
      } catch (...) {
        if (!own.failed.exchange(true)) own.first = std::current_exception();
      }
    };
    check(ort_.KernelContext_ParallelFor(context_, call, n, 0, &loop));
    if (loop.first) std::rethrow_exception(loop.first);
  }

 private:
  void* output(size_t i, std::initializer_list<size_t> sizes) const;

  Ort ort_;
  OrtKernelContext* context_;
};

// What the work throws, as a status.
template <class Work>
OrtStatus* guarded(const Ort& ort, const char* op, const Work& work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const Refusal& refusal) {
    return ort.CreateStatus(INVALID_ARGUMENT, refusal.what());
  } catch (const std::bad_alloc&) {
    return ort.CreateStatus(FAIL, "memoir_edge: out of memory");
  } catch (...) {
    return ort.CreateStatus(FAIL, op);
  }
}

// "name is [2, 3], expected [4]"
void expect_shape(const Tensor& tensor, const char* name, std::initializer_list<size_t> sizes);

void compute_route(const Call& call);
void compute_recall(const Call& call);
void compute_route_cuda(const Call& call);
void compute_recall_cuda(const Call& call);

}  // namespace memoir_edge
