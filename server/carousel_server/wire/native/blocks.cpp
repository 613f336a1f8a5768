// Blocks of Attach streams with one session each, read many at a time into columns. Python parses all others.

#include "proto.h"

namespace native {

namespace {

// Fields of AttachRequest and of Block.
enum : uint32_t { kBlock = 3, kHandles = 1, kFirstSeqs = 2, kSteps = 3, kInputs = 4, kDtype = 5, kAcks = 6 };

constexpr int64_t kNoAck = -1;
constexpr uint64_t kMostHandle = UINT32_MAX;
constexpr uint64_t kMostSeq = INT64_MAX;

}  // namespace

// As Python reads it: int64[7]. Handle 0 stands for a request that is not plain.
struct BlockRow {
  int64_t handle = 0;
  int64_t first_seq = 0;
  int64_t steps = 0;
  int64_t ack = kNoAck;
  int64_t dtype = 0;
  int64_t inputs_at = 0, inputs_end = 0;
};
static_assert(sizeof(BlockRow) == 7 * sizeof(int64_t));

namespace {

// The one number of a repeated field, packed or not. False if there are others, or it is too large.
bool only(const Field& field, uint64_t most, int64_t& value) {
  uint64_t number = field.value;
  if (field.type == WireType::kBytes) {
    Message packed(field.bytes);
    if (!packed.varint(number) || !packed.at_end()) return false;
  } else if (field.type != WireType::kVarint) {
    return false;
  }
  value = static_cast<int64_t>(number);
  return number <= most;
}

bool number(const Field& field, uint64_t most, int64_t& value) {
  return field.type == WireType::kVarint && only(field, most, value);
}

// False if a request is anything but a plain block.
bool read(std::string_view request, const char* base, BlockRow& row) {
  Message events(request);
  Field event;
  if (!events.next(event) || event.number != kBlock || event.type != WireType::kBytes || !events.at_end()) return false;
  Message block(event.bytes);
  unsigned seen = 0;
  for (Field field; block.next(field);) {
    // A field that comes twice adds to a list, or counts the last time; that is left to protobuf.
    if (field.number > kAcks || seen & 1u << field.number) return false;
    seen |= 1u << field.number;
    switch (field.number) {
      case kHandles: if (!only(field, kMostHandle, row.handle)) return false; break;
      case kFirstSeqs: if (!only(field, kMostSeq, row.first_seq)) return false; break;
      case kAcks: if (!only(field, kMostSeq, row.ack)) return false; break;
      case kSteps: if (!number(field, kMostHandle, row.steps)) return false; break;
      case kDtype: if (!number(field, INT32_MAX, row.dtype)) return false; break;
      case kInputs:
        if (field.type != WireType::kBytes) return false;
        row.inputs_at = field.bytes.data() - base;
        row.inputs_end = row.inputs_at + static_cast<int64_t>(field.bytes.size());
        break;
    }
  }
  return !block.broken && row.handle && row.first_seq;
}

}  // namespace

}  // namespace native

// Reads requests that begin and end at these places of `bytes`.
extern "C" __attribute__((visibility("default"))) void blocks_read(const char* bytes, const int64_t* begins, const int64_t* ends,
                                                                   int64_t count, native::BlockRow* rows) {
  for (int64_t i = 0; i < count; ++i) {
    native::BlockRow row;
    bool plain = native::read({bytes + begins[i], static_cast<size_t>(ends[i] - begins[i])}, bytes, row);
    rows[i] = plain ? row : native::BlockRow{};
  }
}
