// Reads the fields of a protobuf message, without a copy and without knowing the message.

#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace native {

enum class WireType : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

struct Field {
  uint32_t number;
  WireType type;
  uint64_t value;          // of a varint
  std::string_view bytes;  // of kBytes
  std::string_view whole;  // with its tag
};

class Message {
 public:
  explicit Message(std::string_view message) : at_(message.data()), end_(message.data() + message.size()) {}

  // False at the end, and where the bytes are no message; `broken` tells these apart.
  bool next(Field& field) {
    if (at_ == end_) return false;
    const char* begin = at_;
    uint64_t tag;
    broken = true;
    if (!varint(tag) || tag >> 32 || !(tag >> 3)) return false;
    field.number = static_cast<uint32_t>(tag >> 3);
    field.type = static_cast<WireType>(tag & 7);
    size_t size = 0;
    switch (field.type) {
      case WireType::kVarint:
        if (!varint(field.value)) return false;
        break;
      case WireType::kBytes: {
        uint64_t length;
        if (!varint(length) || length > static_cast<uint64_t>(end_ - at_)) return false;
        size = static_cast<size_t>(length);
        field.bytes = {at_, size};
        break;
      }
      case WireType::kFixed64: size = 8; break;
      case WireType::kFixed32: size = 4; break;
      default: return false;  // groups, which no message of ours has
    }
    if (size > static_cast<size_t>(end_ - at_)) return false;
    at_ += size;
    field.whole = {begin, static_cast<size_t>(at_ - begin)};
    broken = false;
    return true;
  }

  // A number, as packed fields have them. False where the bytes are none.
  bool varint(uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ == end_) return false;
      auto byte = static_cast<uint8_t>(*at_++);
      if (shift == 63 && byte > 1) return false;
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }

  bool at_end() const { return at_ == end_; }

  bool broken = false;

 private:
  const char* at_;
  const char* end_;
};

}  // namespace native
