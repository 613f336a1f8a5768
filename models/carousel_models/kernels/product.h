// The product of a few rows with a panel of weights. A panel is [k][column][lane]; its sums are
// [row][WIDTH][LANES], and begin with what stands there.

#pragma once

#include "vectors.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

constexpr int WIDTH = 4;  // vectors of one row's sums

#if defined(__AVX512BF16__)
constexpr bool PAIRED = true;  // the processor multiplies pairs of bf16 itself
#else
constexpr bool PAIRED = false;
#endif

// How a column of a panel is read, and what is added to a sum.
struct Float {
  static constexpr int STEPS = 1;
  static inline vec weights(const char* at, int) { return *(const vec*)at; }
  static inline vec add(vec sum, float x, vec w) { return sum + x * w; }
};

// Two elements of a bf16 operand share a lane: the even one in its lower half, the odd one in its upper.
struct Bf16 {
  static constexpr int STEPS = 2;
  static inline vec weights(const char* at, int step) {
    veci pair = *(const veci*)at;
    return (vec)(step ? pair & (int32_t)0xffff0000 : pair << 16);
  }
  static inline vec add(vec sum, float x, vec w) { return sum + x * w; }
};

#if defined(__AVX512BF16__)
struct Bf16Pair {
  static constexpr int STEPS = 1;
  static inline vec weights(const char* at, int) { return *(const vec*)at; }
  static inline vec add(vec sum, float x, vec w) {
    int32_t pair;
    memcpy(&pair, &x, 4);
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)w);
  }
};
#endif

// sums[row][column] += Σ_k a[k][row] · w[k][column], for ROWS rows and COLUMNS vectors. LAST is where the
// last column's sum stands.
template <class Dot, int ROWS, int COLUMNS, int LAST>
inline void tile(int64_t depth, const float* a, const char* w, float* sums) {
  vec sum[ROWS][COLUMNS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; c++)
      sum[r][c] = *(vec*)(sums + (r * WIDTH + (c == COLUMNS - 1 ? LAST : c)) * LANES);
  for (int64_t k = 0; k < depth; k += Dot::STEPS, w += COLUMNS * LANES * 4)
#pragma GCC unroll 2
    for (int step = 0; step < Dot::STEPS; step++, a += ROWS) {
      vec column[COLUMNS];
#pragma GCC unroll 4
      for (int c = 0; c < COLUMNS; c++) column[c] = Dot::weights(w + c * LANES * 4, step);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; c++) sum[r][c] = Dot::add(sum[r][c], a[r], column[c]);
    }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; c++)
      *(vec*)(sums + (r * WIDTH + (c == COLUMNS - 1 ? LAST : c)) * LANES) = sum[r][c];
}

template <class Dot, int ROWS, int COLUMNS, int LAST>
inline void rest(int64_t rows, int64_t depth, const float* a, const char* w, float* sums) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS)
      tile<Dot, ROWS, COLUMNS, LAST>(depth, a, w, sums);
    else
      rest<Dot, ROWS - 1, COLUMNS, LAST>(rows, depth, a, w, sums);
  }
}

// All rows. `ahead` bytes behind these weights are asked for meanwhile.
template <class Dot, int COLUMNS, int LAST>
void product(int64_t n, int64_t depth, int64_t a_depth, int64_t k, const float* a,
             const char* w, float* sums, int64_t ahead) {
  constexpr int ROWS = ACCUMULATORS / COLUMNS;
  const char* behind = w + depth / Dot::STEPS * COLUMNS * LANES * 4;
  int64_t row = 0;
  for (; row + ROWS <= n; row += ROWS) {
    for (int64_t at = ahead * row / n; at < ahead * (row + ROWS) / n; at += 64) __builtin_prefetch(behind + at);
    tile<Dot, ROWS, COLUMNS, LAST>(depth, a + row * a_depth + k * ROWS, w, sums + row * WIDTH * LANES);
  }
  int64_t left = n - row;
  rest<Dot, ROWS - 1, COLUMNS, LAST>(left, depth, a + row * a_depth + k * left, w,
                                     sums + row * WIDTH * LANES);
}

}  // namespace
