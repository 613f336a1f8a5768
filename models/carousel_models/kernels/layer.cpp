// One step of a recurrent layer, or a linear layer, for a batch of rows: product and gates in one pass. And many
// steps of a recurrent layer: the input's products of all of them at once, then step after step.
//
// A weight matrix is cut into panels: the gates of a vector of units side by side, one row of a panel for
// each element of the operand. A panel's sums stay in the first cache until the gates are applied to them.
// Each sum is its bias, then + w·operand in the operand's order, each rounded once, whatever the number of
// rows or threads: a row's bits never depend on its batch.

#include <stdlib.h>

#include "product.h"

enum Cell { LINEAR, SIGMOID, RNN_TANH, RNN_RELU, LSTM, GRU };

enum Outcome : int { DONE, NO_MEMORY, OUTSIDE };

struct Layer {
  int64_t cell, bf16, inputs, recurrent, units;
  const void* weights;  // as carousel_pack leaves them: for each panel the input's part, then the state's
  const float* bias;    // likewise: [panel][WIDTH][LANES]
};

struct Target {
  char* data;
  int64_t row_bytes, rows;
};

namespace {

constexpr int64_t DEPTH = 128;         // rows of a panel that are worked on at a time: they fit the first cache
constexpr int64_t BATCH = 256;         // rows of a batch likewise, for the second cache
constexpr int64_t PRODUCTS = 1 << 19;  // multiplications that are worth a thread

constexpr int64_t CACHED = 1 << 23;    // bytes of weights that may be in a cache from one step to the next
constexpr int64_t AHEAD = 8;           // rows between a scattered one and the one that is fetched meanwhile

// Memory that a thread keeps from one step to the next.
struct Buffer {
  float* data = nullptr;
  int64_t size = 0;
  float* of(int64_t wanted) {
    if (wanted > size) {
      free(data);
      size = wanted;
      data = (float*)aligned_alloc(64, (size_t)(wanted * 4 + 63) / 64 * 64);
      if (!data) size = 0;
    }
    return data;
  }
  ~Buffer() { free(data); }
};

thread_local Buffer operand_buffer, sums_buffer, wide_buffer, stretch_buffer;

int columns_of(int64_t cell) { return cell == GRU ? 3 : 4; }
int64_t units_of(int64_t cell) { return cell >= LSTM ? LANES : WIDTH * LANES; }
int64_t panels_of(const Layer& l) { return (l.units + units_of(l.cell) - 1) / units_of(l.cell); }
int64_t pairs(int64_t depth) { return (depth + 1) / 2; }
int64_t deep(const Layer& l, int64_t depth) {
  return l.bf16 ? (PAIRED ? pairs(depth) : 2 * pairs(depth)) : depth;
}

// Row of the weight matrix that stands at a column and lane of a panel; -1 for none.
int64_t source_row(const Layer& l, int64_t panel, int column, int lane) {
  if (l.cell >= LSTM) {
    int64_t unit = panel * LANES + lane;
    return unit < l.units ? column * l.units + unit : -1;
  }
  int64_t unit = (panel * WIDTH + column) * LANES + lane;
  return unit < l.units ? unit : -1;
}

int64_t panel_bytes(const Layer& l, int64_t depth) {
  return (l.bf16 ? pairs(depth) : depth) * columns_of(l.cell) * LANES * 4;
}

void pack_matrix(const Layer& l, const float* w, int64_t depth, int64_t panel, char* out) {
  int columns = columns_of(l.cell), steps = l.bf16 ? 2 : 1;
  memset(out, 0, (size_t)panel_bytes(l, depth));
  for (int64_t k = 0; k < depth; k++)
    for (int c = 0; c < columns; c++)
      for (int lane = 0; lane < LANES; lane++) {
        int64_t row = source_row(l, panel, c, lane);
        if (row < 0) continue;
        int64_t at = (k / steps * columns + c) * LANES + lane;
        if (l.bf16)
          ((uint16_t*)out)[at * 2 + k % 2] = round_to_bf16(w[row * depth + k]);
        else
          ((float*)out)[at] = w[row * depth + k];
      }
}

// The operand, in blocks of as many rows as a tile has: [block][k][row]. `slots` tells which rows of x.
void pack_operand(const Layer& l, const float* x, const int64_t* slots, int64_t n, int64_t depth, float* out) {
  int64_t rows = ACCUMULATORS / columns_of(l.cell), deepness = deep(l, depth);
  for (int64_t first = 0; first < n; first += rows) {
    int64_t block = n - first < rows ? n - first : rows;
    for (int64_t r = 0; r < block; r++) {
      const float* from = x + (slots ? slots[first + r] : first + r) * depth;
      float* to = out + first * deepness + r;
      if (!l.bf16) {
        for (int64_t k = 0; k < depth; k++) to[k * block] = from[k];
        continue;
      }
      for (int64_t k = 0; k < depth; k++) {
        uint32_t bits = round_to_bf16(from[k]);
        if (PAIRED && k % 2)
          memcpy((uint16_t*)(to + k / 2 * block) + 1, &bits, 2);
        else if (PAIRED)
          memcpy(to + k / 2 * block, &bits, 4);
        else
          memcpy(to + k * block, &(bits <<= 16), 4);
      }
      if (!PAIRED && depth % 2) to[depth * block] = 0;
    }
  }
}

template <int COLUMNS, int LAST>
void accumulate(const Layer& l, int64_t n, int64_t depth, const float* a, const char* w, float* sums) {
  bool far = panels_of(l) * (panel_bytes(l, l.inputs) + panel_bytes(l, l.recurrent)) > CACHED;
  int64_t deepness = deep(l, depth), row_bytes = COLUMNS * LANES * (l.bf16 && !PAIRED ? 2 : 4);
  for (int64_t k = 0; k < deepness; k += DEPTH) {
    int64_t block = deepness - k < DEPTH ? deepness - k : DEPTH;
    const char* from = w + k * row_bytes;
    int64_t ahead = far ? block * row_bytes : 0;
    if (!l.bf16) {
      product<Float, COLUMNS, LAST>(n, block, deepness, k, a, from, sums, ahead);
      continue;
    }
#if defined(__AVX512BF16__)
    product<Bf16Pair, COLUMNS, LAST>(n, block, deepness, k, a, from, sums, ahead);
#else
    if (n <= 2 * ACCUMULATORS / COLUMNS) {
      product<Bf16, COLUMNS, LAST>(n, block, deepness, k, a, from, sums, ahead);
      continue;
    }
    vec* wide = (vec*)wide_buffer.data;
    for (int64_t at = 0; at < ahead; at += 64) __builtin_prefetch(from + block * row_bytes + at);
    for (int64_t pair = 0; pair < block / 2; pair++, from += COLUMNS * LANES * 4)
      for (int step = 0; step < 2; step++)
        for (int c = 0; c < COLUMNS; c++) *wide++ = Bf16::weights(from + c * LANES * 4, step);
    product<Float, COLUMNS, LAST>(n, block, deepness, k, a, (const char*)wide_buffer.data, sums, 0);
#endif
  }
}

bool within(const int64_t* slots, int64_t n, int64_t rows) {
  bool good = true;
  for (int64_t i = 0; i < n; i++) good &= slots[i] >= 0 && slots[i] < rows;
  return good;
}

struct Rows {
  int64_t n;
  const int64_t* slots;  // where each row's state stands in h and c; null for row after row
  const float *h, *c;    // as they were
  float *h_out, *c_out;
};

void apply_gates(const Layer& l, int64_t panel, const float* sums, const Rows& rows) {
  int64_t first = panel * units_of(l.cell), units = l.units - first;
  for (int64_t row = 0; row < rows.n; row++) {
    const vec* s = (const vec*)(sums + row * WIDTH * LANES);
    int64_t at = row * l.units + first, was = rows.slots ? rows.slots[row] * l.units + first : at;
    if (l.cell == LSTM) {
      vec cell = sigmoid(s[1]) * load(rows.c + was, units) + sigmoid(s[0]) * hyperbolic_tangent(s[2]);
      store(rows.c_out + at, cell, units);
      store(rows.h_out + at, sigmoid(s[3]) * hyperbolic_tangent(cell), units);
    } else if (l.cell == GRU) {
      vec r = sigmoid(s[0]), z = sigmoid(s[1]);
      vec candidate = hyperbolic_tangent(s[2] + r * s[3]);
      store(rows.h_out + at, (1.0f - z) * candidate + z * load(rows.h + was, units), units);
    } else {
      for (int v = 0; v < WIDTH && v * LANES < units; v++) {
        vec y = s[v];
        if (l.cell == SIGMOID) y = sigmoid(y);
        if (l.cell == RNN_TANH) y = hyperbolic_tangent(y);
        if (l.cell == RNN_RELU) y = y < 0.0f ? vec{} : y;
        store(rows.h_out + at + v * LANES, y, units - v * LANES);
      }
    }
  }
}

const char* weights_of(const Layer& l, int64_t panel) {
  return (const char*)l.weights + panel * (panel_bytes(l, l.inputs) + panel_bytes(l, l.recurrent));
}

// A panel's sums of n rows: the bias, and the input's part.
bool begin_panel(const Layer& l, int64_t panel, int64_t n, const float* a_x, float* sums) {
  if (!wide_buffer.of(DEPTH * WIDTH * LANES)) return false;
  const float* bias = l.bias + panel * WIDTH * LANES;
  for (int64_t row = 0; row < n; row++) memcpy(sums + row * WIDTH * LANES, bias, WIDTH * LANES * 4);
  if (l.cell == GRU)
    accumulate<3, 2>(l, n, l.inputs, a_x, weights_of(l, panel), sums);
  else
    accumulate<4, 3>(l, n, l.inputs, a_x, weights_of(l, panel), sums);
  return true;
}

// The state's part, and the gates.
bool end_panel(const Layer& l, int64_t panel, const float* a_h, const Rows& rows, float* sums) {
  if (!wide_buffer.of(DEPTH * WIDTH * LANES)) return false;
  const char* w_h = weights_of(l, panel) + panel_bytes(l, l.inputs);
  if (l.cell == GRU)  // the candidate's part of the state is kept apart: the reset gate scales it
    accumulate<3, 3>(l, rows.n, l.recurrent, a_h, w_h, sums);
  else
    accumulate<4, 3>(l, rows.n, l.recurrent, a_h, w_h, sums);
  apply_gates(l, panel, sums, rows);
  return true;
}

bool step_panel(const Layer& l, int64_t panel, const float* a_x, const float* a_h, const Rows& rows) {
  float* sums = sums_buffer.of(rows.n * WIDTH * LANES);
  return sums && begin_panel(l, panel, rows.n, a_x, sums) && end_panel(l, panel, a_h, rows, sums);
}

// Does something for each panel; false if there was no memory for one.
template <class Work>
bool each_panel(const Layer& l, int64_t threads, const Work& work) {
  int64_t panels = panels_of(l);
  bool good = true;
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel for num_threads((int)threads) schedule(static) reduction(&& : good)
    for (int64_t panel = 0; panel < panels; panel++) good = work(panel) && good;
    return good;
  }
#endif
  for (int64_t panel = 0; panel < panels; panel++) good = work(panel) && good;
  return good;
}

// As many threads as n rows of so many elements are worth.
int64_t worth(const Layer& l, int64_t n, int64_t depth, int64_t threads) {
  int64_t products = n * depth * l.units * (l.cell >= LSTM ? columns_of(l.cell) : 1);
  return threads > 1 + products / PRODUCTS ? 1 + products / PRODUCTS : threads;
}

// States lie scattered over more memory than caches hold: all are asked for before the first is needed.
void fetch(const float* from, const int64_t* slots, int64_t n, int64_t width) {
  for (int64_t i = 0; i < n; i++)
    for (int64_t at = 0; at < width; at += 16) __builtin_prefetch(from + slots[i] * width + at);
}

// Up to BATCH rows.
bool step_rows(const Layer& l, const float* x, const Rows& rows, int64_t threads) {
  int64_t x_size = rows.n * deep(l, l.inputs), h_size = rows.n * deep(l, l.recurrent);
  float *a_x = operand_buffer.of(x_size + h_size), *a_h = a_x + x_size;
  if (!a_x) return false;
  if (rows.slots) {
    fetch(rows.h, rows.slots, rows.n, l.recurrent);
    if (rows.c) fetch(rows.c, rows.slots, rows.n, l.units);
  }
  pack_operand(l, x, nullptr, rows.n, l.inputs, a_x);
  if (l.recurrent) pack_operand(l, rows.h, rows.slots, rows.n, l.recurrent, a_h);
  return each_panel(l, threads, [&](int64_t panel) { return step_panel(l, panel, a_x, a_h, rows); });
}

// Some times of a sequence, n rows together; see carousel_sequence.
bool step_stretch(const Layer& l, int64_t times, const int64_t* sizes, int64_t n, const float* x, float* h,
                  float* c, float* out, int64_t threads) {
  int64_t x_size = n * deep(l, l.inputs), h_size = sizes[0] * deep(l, l.recurrent);
  float *a_x = operand_buffer.of(x_size + h_size), *a_h = a_x + x_size;
  float* sums = stretch_buffer.of(panels_of(l) * n * WIDTH * LANES);
  if (!a_x || !sums) return false;
  pack_operand(l, x, nullptr, n, l.inputs, a_x);
  auto begin = [&](int64_t panel) { return begin_panel(l, panel, n, a_x, sums + panel * n * WIDTH * LANES); };
  if (!each_panel(l, worth(l, n, l.inputs, threads), begin)) return false;
  for (int64_t time = 0, row = 0; time < times; row += sizes[time++]) {
    Rows rows{sizes[time], nullptr, h, c, out + row * l.units, c};
    pack_operand(l, h, nullptr, rows.n, l.recurrent, a_h);
    auto end = [&](int64_t panel) {
      return end_panel(l, panel, a_h, rows, sums + (panel * n + row) * WIDTH * LANES);
    };
    if (!each_panel(l, worth(l, rows.n, l.recurrent, threads), end)) return false;
    memcpy(h, rows.h_out, (size_t)(rows.n * l.units * 4));
  }
  return true;
}

}  // namespace

extern "C" int64_t carousel_weight_bytes(const Layer* l) {
  return panels_of(*l) * (panel_bytes(*l, l->inputs) + panel_bytes(*l, l->recurrent));
}

extern "C" int64_t carousel_bias_bytes(const Layer* l) { return panels_of(*l) * WIDTH * LANES * 4; }

// w_x [gates · units, inputs], w_h [gates · units, recurrent], biases [gates · units] or null.
extern "C" void carousel_pack(const Layer* l, const float* w_x, const float* w_h, const float* b_x,
                              const float* b_h) {
  char* out = (char*)l->weights;
  float* bias = (float*)l->bias;
  for (int64_t panel = 0; panel < panels_of(*l); panel++) {
    pack_matrix(*l, w_x, l->inputs, panel, out);
    out += panel_bytes(*l, l->inputs);
    if (l->recurrent) pack_matrix(*l, w_h, l->recurrent, panel, out);
    out += panel_bytes(*l, l->recurrent);
    for (int c = 0; c < WIDTH; c++)
      for (int lane = 0; lane < LANES; lane++) {
        bool split = l->cell == GRU && c >= 2;  // the candidate's two halves are kept apart
        int64_t row = source_row(*l, panel, split ? 2 : c, lane);
        float from_x = row >= 0 && b_x && !(split && c == 3) ? b_x[row] : 0;
        float from_h = row >= 0 && b_h && !(split && c == 2) ? b_h[row] : 0;
        bias[(panel * WIDTH + c) * LANES + lane] = from_x + from_h;
      }
  }
}

// x [n, inputs], h [states, recurrent], c [states, units] -> h_out, c_out [n, units]; row i's state stands in
// row slots[i] of h and c, or, without slots, in row i.
extern "C" Outcome carousel_step(const Layer* l, int64_t n, const float* x, int64_t states, const int64_t* slots,
                                 const float* h, const float* c, float* h_out, float* c_out, int64_t threads) {
  if (slots && !within(slots, n, states)) return OUTSIDE;
  threads = worth(*l, n, l->inputs + l->recurrent, threads);
  for (int64_t first = 0; first < n; first += BATCH) {
    int64_t skip = slots ? 0 : first, out = first * l->units;
    Rows rows{n - first < BATCH ? n - first : BATCH,
              slots ? slots + first : slots,
              h ? h + skip * l->recurrent : h,
              c ? c + skip * l->units : c,
              h_out + out,
              c_out ? c_out + out : c_out};
    if (!step_rows(*l, x + first * l->inputs, rows, threads)) return NO_MEMORY;
  }
  return DONE;
}

// Sequences of a layer that hands on what it computes. x [rows, inputs]: sizes[0] rows of the first time,
// then sizes[1] of the second, which are the first ones of those, and so on. h, c [sizes[0], units] become what
// they are after each sequence's last step. out [rows, units]. The bits are those of step after step.
extern "C" Outcome carousel_sequence(const Layer* l, int64_t times, const int64_t* sizes, const float* x, float* h,
                                     float* c, float* out, int64_t threads) {
  for (int64_t time = 0; time < times;) {
    int64_t first = time, n = 0;
    do n += sizes[time++];
    while (time < times && n + sizes[time] <= BATCH);
    if (n > BATCH) {  // sequences enough for one time alone
      if (carousel_step(l, n, x, n, nullptr, h, c, out, c, threads) != DONE) return NO_MEMORY;
      memcpy(h, out, (size_t)(n * l->units * 4));
    } else if (!step_stretch(*l, time - first, sizes + first, n, x, h, c, out, threads)) {
      return NO_MEMORY;
    }
    x += n * l->inputs;
    out += n * l->units;
  }
  return DONE;
}

// Row i of each source becomes row slots[i] of its target.
extern "C" Outcome carousel_scatter(int64_t targets, const Target* target, int64_t n, const int64_t* slots,
                                    const char* const* source) {
  for (int64_t t = 0; t < targets; t++)
    if (!within(slots, n, target[t].rows)) return OUTSIDE;
  for (int64_t t = 0; t < targets; t++) {
    int64_t bytes = target[t].row_bytes;
    for (int64_t i = 0; i < n; i++) {
      if (i + AHEAD < n) __builtin_prefetch(target[t].data + slots[i + AHEAD] * bytes, 1);
      memcpy(target[t].data + slots[i] * bytes, source[t] + i * bytes, (size_t)bytes);
    }
  }
  return DONE;
}
