// Vectors of as many floats as the processor takes at once, and the functions that gates are made of.

#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define ACCUMULATORS 24  // vectors of sums that fit the registers beside weights and operand
#else
#define LANES 8
#define ACCUMULATORS 12
#endif

namespace {

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t veci __attribute__((vector_size(4 * LANES)));
typedef vec vec_anywhere __attribute__((aligned(4), may_alias));

inline vec all(float value) { return value - vec{}; }

// The first `count` of a vector; the rest is zero, or not stored.
inline vec load(const float* at, int64_t count) {
  if (count >= LANES) return *(const vec_anywhere*)at;
  vec value{};
  memcpy(&value, at, (size_t)count * 4);
  return value;
}

inline void store(float* at, vec value, int64_t count) {
  if (count >= LANES)
    *(vec_anywhere*)at = value;
  else
    memcpy(at, &value, (size_t)count * 4);
}

inline vec exponential(vec x) {
  // e^x = 2^n e^r, |r| <= ln 2 / 2; the polynomial is Taylor's, its rest is below 2^-24.
  x = x > 88.0f ? all(88.0f) : x;
  x = x < -87.0f ? all(-87.0f) : x;
  const float shift = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer, in the lowest bits
  vec shifted = x * 1.44269504f + shift;
  vec n = shifted - shift;
  vec r = x - n * 0.693145752f;
  r = r - n * 1.42860677e-6f;
  vec p = all(1.0f / 720);
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // A NaN has bits in the places that n is added to: some would come out as numbers.
  return x == x ? (vec)((veci)p + ((veci)shifted << 23)) : x;
}

inline vec sigmoid(vec x) { return 1.0f / (1.0f + exponential(-x)); }

inline vec hyperbolic_tangent(vec x) {
  vec large = 1.0f - 2.0f / (1.0f + exponential(2.0f * x));
  vec z = x * x;  // near zero the form above loses digits; this is the series, fitted on |x| < 0.625
  vec p = all(-5.70498872745e-3f);
  p = p * z + 2.06390887954e-2f;
  p = p * z + -5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z + -3.33332819422e-1f;
  vec small = p * z * x + x;
  return z < 0.390625f ? small : large;
}

inline uint16_t round_to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);  // NaN stays NaN
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace
