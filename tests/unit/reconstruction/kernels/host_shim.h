// Just enough of CUDA to run the kernels on a CPU: a block's threads are fibers that take turns at __syncthreads, and
// blocks follow each other. Slow, and the same text as on a GPU.
#pragma once
#include <cmath>
#include <csetjmp>
#include <cstring>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ static

struct float2 {
    float x, y;
};
struct Index {
    unsigned x;
};
static Index threadIdx, blockIdx, gridDim;

static inline float2 make_float2(float x, float y) { return {x, y}; }
template <class T> static inline void atomicAdd(T *to, T value) { *to += value; }
static inline void atomicMax(int *to, int value) { *to = value > *to ? value : *to; }
template <class To, class From> static inline To bits_as(From from) {
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
static inline int __float_as_int(float value) { return bits_as<int>(value); }
static inline float __int_as_float(int value) { return bits_as<float>(value); }

static const unsigned THREADS = 256;
struct Fiber {
    jmp_buf at;
    bool started = false, done = false;
    std::vector<char> stack = std::vector<char>(1 << 16);
};
static std::vector<Fiber> fibers(THREADS);
static jmp_buf scheduler;
static void (*body)();

static inline void __syncthreads() {
    unsigned me = threadIdx.x;
    if (!_setjmp(fibers[me].at)) _longjmp(scheduler, 1);
}

static void live() {
    for (;;) {
        unsigned me = threadIdx.x;
        body();
        fibers[me].done = true;
        if (!_setjmp(fibers[me].at)) _longjmp(scheduler, 1);
    }
}

static void resume(unsigned thread) {
    threadIdx.x = thread;
    Fiber &fiber = fibers[thread];
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.at, 1);
    fiber.started = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack.data();
    context.uc_stack.ss_size = fiber.stack.size();
    makecontext(&context, live, 0);
    setcontext(&context);
}

static void run_blocks(unsigned blocks) {
    gridDim.x = blocks;
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
        for (Fiber &fiber : fibers) fiber.done = false;
        for (bool working = true; working;) {
            working = false;
            for (unsigned i = 0; i < THREADS; i++) {
                unsigned t = blockIdx.x % 2 ? THREADS - 1 - i : i;  // so that what lacks a meeting goes wrong
                if (!fibers[t].done) resume(t);
                working = working || !fibers[t].done;
            }
        }
    }
}

template <class... A, size_t... I>
static void run(void (*kernel)(A...), unsigned blocks, void **arguments, std::index_sequence<I...>) {
    static std::tuple<A...> given;
    static void (*chosen)(A...);
    given = std::tuple<A...>(*(A *)arguments[I]...);
    chosen = kernel;
    body = [] { std::apply(chosen, given); };
    run_blocks(blocks);
}

template <class... A> static void run(void (*kernel)(A...), unsigned blocks, void **arguments) {
    run(kernel, blocks, arguments, std::index_sequence_for<A...>{});
}
