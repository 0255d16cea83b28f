// What the library shows to the outside.
//
// ONNX Runtime calls the first; the rest is for whoever loads memories, and for tests. Nothing is
// thrown by any of them, as callers are C.
#pragma once

#include <cstdint>

#define EXPORTED extern "C" __attribute__((visibility("default")))

struct OrtSessionOptions;
struct OrtStatus;
struct OrtApiBase;

// ONNX Runtime's entry point: adds the ops of domain `memoir_edge` to a session's options.
EXPORTED OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);

// Name of the instruction set in use; `wanted` switches to another, null leaves it as it is.
// Returns null where the CPU does not support the wanted one.
EXPORTED const char* memoir_edge_kernels(const char* wanted);

// 1 where there are kernels for CUDAExecutionProvider, too.
EXPORTED int memoir_edge_has_cuda();

// Derives the prefix of a bank [R, W] for Route to search by, of up to n features; 0 on success.
// The bank must stay where and as it is until `memoir_edge_forget`, and so must its T thresholds.
EXPORTED int memoir_edge_index(const uint8_t* bank, uint64_t R, uint64_t W, uint64_t n,
                               const float* thresholds, uint64_t T);
EXPORTED void memoir_edge_forget(const uint8_t* bank);

// How many of the `seen` ones of a query (of its k) that the prefix holds a key must have, or be
// filtered out; a key that shares `shared` of the k has fewer with a probability below 1e-9.
EXPORTED uint32_t memoir_edge_least_in_prefix(uint32_t k, uint32_t shared, uint32_t seen);
